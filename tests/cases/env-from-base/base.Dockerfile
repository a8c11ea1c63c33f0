ARG REG
FROM ${REG}/base/busybox:latest
ENV FROM_BASE=base PATH=/base/bin:$PATH
USER app
WORKDIR /base
LABEL a=base b=base
EXPOSE 1
VOLUME /basevol
STOPSIGNAL SIGHUP
HEALTHCHECK CMD base
SHELL ["/bin/ash", "-e", "-c"]
