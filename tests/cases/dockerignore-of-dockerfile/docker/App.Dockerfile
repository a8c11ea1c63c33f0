ARG REG
FROM ${REG}/base/busybox:latest
COPY . /all/
