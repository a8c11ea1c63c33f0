ARG REG
FROM ${REG}/base/busybox:latest
ENTRYPOINT ["/bin/base"]
CMD ["base", "cmd"]
