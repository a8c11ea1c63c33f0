"""The words that fields of the API take, where the schema only says that they are strings.

From the API types of Kubernetes 1.37; older versions take some of them only.
"""

from __future__ import annotations

# By the end of the field's path, list positions left out.
WORDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("spec", "restartPolicy"): ("Always", "OnFailure", "Never"),
    ("initContainers", "restartPolicy"): ("Always", "OnFailure", "Never"),
    ("imagePullPolicy",): ("Always", "IfNotPresent", "Never"),
    ("terminationMessagePolicy",): ("File", "FallbackToLogsOnError"),
    ("dnsPolicy",): ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    ("ports", "protocol"): ("TCP", "UDP", "SCTP"),
    ("seccompProfile", "type"): ("RuntimeDefault", "Unconfined", "Localhost"),
    ("appArmorProfile", "type"): ("RuntimeDefault", "Unconfined", "Localhost"),
    ("securityContext", "procMount"): ("Default", "Unmasked"),
    ("securityContext", "fsGroupChangePolicy"): ("OnRootMismatch", "Always"),
    ("securityContext", "supplementalGroupsPolicy"): ("Merge", "Strict"),
    ("volumeMounts", "mountPropagation"): ("None", "HostToContainer", "Bidirectional"),
    ("volumeMounts", "recursiveReadOnly"): ("Disabled", "IfPossible", "Enabled"),
    ("hostPath", "type"): (
        "", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice",
        "BlockDevice",
    ),
    ("accessModes",): ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"),
    ("volumeMode",): ("Filesystem", "Block"),
    ("preemptionPolicy",): ("PreemptLowerPriority", "Never"),
    ("tolerations", "operator"): ("Exists", "Equal", "Lt", "Gt"),
    ("tolerations", "effect"): ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    ("matchExpressions", "operator"): ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
    ("matchFields", "operator"): ("In", "NotIn"),
    ("whenUnsatisfiable",): ("DoNotSchedule", "ScheduleAnyway"),
    ("completionMode",): ("NonIndexed", "Indexed"),
    ("podReplacementPolicy",): ("TerminatingOrFailed", "Failed"),
    ("concurrencyPolicy",): ("Allow", "Forbid", "Replace"),
    ("podFailurePolicy", "rules", "action"): ("FailJob", "FailIndex", "Ignore", "Count"),
    ("onExitCodes", "operator"): ("In", "NotIn"),
    ("httpGet", "scheme"): ("HTTP", "HTTPS"),
    ("resizePolicy", "restartPolicy"): ("NotRequired", "RestartContainer"),
}  # fmt: skip
# What a Job, or anything that keeps Pods running, may ask for.
RESTARTS = {"Job": ("OnFailure", "Never"), "CronJob": ("OnFailure", "Never"), "Pod": ()}
MEDIUM = ("", "Memory", "HugePages")
CAPABILITIES = (
    "ALL", "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF",
    "CHECKPOINT_RESTORE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID",
    "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE",
    "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE",
    "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "WAKE_ALARM",
)  # fmt: skip
