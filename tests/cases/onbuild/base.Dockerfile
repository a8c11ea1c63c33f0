ARG REG
FROM ${REG}/base/busybox:latest
ENV KIND=onbuild
ONBUILD COPY app.txt /app/
ONBUILD RUN echo "triggered $KIND" > /app/run
ONBUILD ENV triggered=yes
ONBUILD WORKDIR /app
