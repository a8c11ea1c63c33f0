package kaniko

import com.cloudbees.groovy.cps.NonCPS

/** The Pod of a build: the agent, the tools that make what goes into the image, and the builder. */
class Pod {
    static final String IMAGE = 'registry.example.com/pybuild/executor'
    static final Map TOOLS = [maven: 'maven:3.9-eclipse-temurin-17']
    static final List ISOLATIONS = [
        'default', 'runtime-default', 'user-namespace', 'restricted', 'openshift', 'gvisor', 'kata',
    ]
    static final List KNOWN = [
        'isolation', 'hostUsers', 'runtimeClassName', 'arch', 'image', 'container', 'tools', 'cpu', 'memory',
        'memoryRequest', 'ephemeralStorage', 'workSize', 'resources', 'secret', 'gitSecret', 'cache', 'env',
        'jnlpImage', 'nodeSelector', 'tolerations', 'serviceAccountName', 'imagePullSecrets', 'labels',
        'annotations', 'activeDeadlineSeconds', 'imagePullPolicy',
    ]
    private static final List ROOTLESS = ['restricted', 'openshift']
    private static final List SANDBOXED = ['gvisor', 'kata']
    private static final List CAPABILITIES = [
        'CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'SETFCAP', 'SETGID', 'SETUID', 'KILL', 'SYS_CHROOT', 'MKNOD',
    ]
    private static final String SECRET_NAME = '(?i).*(PASSWORD|PASSWD|TOKEN|SECRET|API_?KEY|_PAT|DOCKER_AUTH_CONFIG)'

    /** What is wrong beyond unknown names; empty if nothing is. */
    @NonCPS
    static String problem(Map args) {
        String unknown = Arguments.problem(args, KNOWN)
        if (unknown) {
            return unknown
        }
        String isolation = isolationOf(args)
        if (!ISOLATIONS.contains(isolation)) {
            return "'isolation' can't be '${isolation}'; did you mean '${Arguments.nearest(isolation, ISOLATIONS)}'?"
        }
        if (args.hostUsers == false && isolation != 'user-namespace') {
            return "'hostUsers: false' is the isolation 'user-namespace', not '${isolation}'"
        }
        for (entry in mapOf(args.env).entrySet()) {
            if (entry.key.toString().matches(SECRET_NAME) && !(entry.value instanceof Map)) {
                return "'env' has ${entry.key} in it: a Pod's YAML is shown in logs; " +
                    "give [secret: 'name', key: 'key'], or bind a credential in the step"
            }
        }
        for (entry in toolsOf(args).entrySet()) {
            if (!entry.value.image) {
                return "'tools' names no image for ${entry.key}"
            }
            if (entry.key == builderOf(args) || entry.key == 'jnlp') {
                return "'tools' can't have one called ${entry.key}: that container is there already"
            }
        }
        return ''
    }

    /** The whole Pod as maps and lists; `image` is the builder's where the arguments name none. */
    @NonCPS
    static Map of(Map given, String image) {
        Map args = (Map) Arguments.plain(given)
        Map pod = [apiVersion: 'v1', kind: 'Pod']
        Map metadata = [:]
        for (name in ['labels', 'annotations']) {
            if (args[name]) {
                metadata[name] = args[name]
            }
        }
        if (metadata) {
            pod.metadata = metadata
        }
        pod.spec = specOf(args, image ?: IMAGE)
        return pod
    }

    @NonCPS
    private static Map specOf(Map args, String image) {
        String isolation = isolationOf(args)
        Map spec = [automountServiceAccountToken: args.serviceAccountName != null, enableServiceLinks: false,
                    restartPolicy: 'Never']
        for (name in ['serviceAccountName', 'activeDeadlineSeconds']) {
            if (args[name] != null) {
                spec[name] = args[name]
            }
        }
        if (args.imagePullSecrets) {
            spec.imagePullSecrets = named(args.imagePullSecrets)
        }
        if (args.runtimeClassName || SANDBOXED.contains(isolation)) {
            spec.runtimeClassName = args.runtimeClassName ?: isolation
        }
        if (isolation == 'user-namespace') {
            spec.hostUsers = false
        }
        Map places = ['kubernetes.io/os': 'linux']
        List tolerations = []
        if (args.arch) {
            places['kubernetes.io/arch'] = args.arch
            if (args.arch != 'amd64') {
                tolerations.add([key: 'kubernetes.io/arch', operator: 'Equal', value: args.arch, effect: 'NoSchedule'])
            }
        }
        spec.nodeSelector = places + mapOf(args.nodeSelector)
        for (toleration in (args.tolerations ?: [])) {
            tolerations.add(toleration)
        }
        if (tolerations) {
            spec.tolerations = tolerations
        }
        spec.securityContext = podSecurity(isolation)
        List containers = [agentOf(args, isolation)]
        for (entry in toolsOf(args).entrySet()) {
            containers.add(toolOf(entry.key, entry.value, args, isolation))
        }
        containers.add(builder(args, isolation, image))
        spec.containers = containers
        spec.volumes = volumesOf(args, isolation)
        return spec
    }

    @NonCPS
    private static Map podSecurity(String isolation) {
        Map profile = [type: 'RuntimeDefault']
        if (isolation == 'restricted') {
            return [runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, seccompProfile: profile]
        }
        if (isolation == 'openshift') {
            return [runAsNonRoot: true, seccompProfile: profile]
        }
        // The workspace's volume is written by the agent (1000) and by the builder (0).
        return isolation == 'runtime-default' ? [fsGroup: 1000, seccompProfile: profile] : [fsGroup: 1000]
    }

    @NonCPS
    private static Map builderSecurity(String isolation) {
        if (ROOTLESS.contains(isolation)) {
            return confined()
        }
        if (isolation == 'runtime-default') {
            return [runAsUser: 0, capabilities: [drop: ['ALL'], add: CAPABILITIES]]
        }
        return [runAsUser: 0]
    }

    @NonCPS
    private static Map confined() {
        return [allowPrivilegeEscalation: false, capabilities: [drop: ['ALL']]]
    }

    @NonCPS
    private static Map otherSecurity(String isolation) {
        return ROOTLESS.contains(isolation) ? confined() : [allowPrivilegeEscalation: false]
    }

    @NonCPS
    private static Map agentOf(Map args, String isolation) {
        Map agent = [name: 'jnlp']
        if (args.jnlpImage) {
            agent.image = args.jnlpImage
        }
        agent.resources = resourcesOf(args, 'jnlp', [cpu: '100m', memory: '512Mi', memoryRequest: '256Mi'])
        agent.securityContext = otherSecurity(isolation)
        return agent
    }

    @NonCPS
    private static Map toolOf(String name, Map tool, Map args, String isolation) {
        Map container = [name: name, image: tool.image]
        // Ends when the Pod does; a container that ends takes the agent with it.
        container.command = Arguments.texts(tool.command ?: 'sleep')
        container.args = tool.command ? Arguments.texts(tool.args) : ['99d']
        String cache = tool.cache ?: '/cache/m2'
        Map env = name == 'maven' ? [MAVEN_OPTS: "-Dmaven.repo.local=${cache}".toString()] : [:]
        List variables = environment(env + mapOf(tool.env))
        if (variables) {
            container.env = variables
        }
        container.resources = resourcesOf(args, name, [cpu: '500m', memory: '2Gi', memoryRequest: '1Gi'] + tool)
        container.securityContext = otherSecurity(isolation)
        if (name == 'maven' || tool.cache) {
            container.volumeMounts = [[name: "${name}-cache".toString(), mountPath: cache]]
        }
        return container
    }

    @NonCPS
    private static Map builder(Map args, String isolation, String image) {
        Map container = [name: builderOf(args), image: imageOf(args, isolation, image)]
        container.imagePullPolicy = args.imagePullPolicy ?: 'IfNotPresent'
        // The image's entrypoint would start a build; Jenkins enters by exec.
        container.command = ['sleep']
        container.args = ['99d']
        // KANIKO_DIR is a volume, since overlay can't write onto the container's own root.
        Map env = [DOCKER_CONFIG: '/kaniko/.docker', KANIKO_DIR: '/kaniko/work']
        if (args.gitSecret) {
            env.GIT_TOKEN = [secret: args.gitSecret, key: 'token']
        }
        container.env = environment(env + mapOf(args.env))
        Map sizes = [cpu: '500m', memory: '4Gi', memoryRequest: '1Gi', ephemeralStorage: '4Gi']
        container.resources = resourcesOf(args, builderOf(args), sizes +
            Arguments.only(args, ['cpu', 'memory', 'memoryRequest', 'ephemeralStorage']))
        container.securityContext = builderSecurity(isolation)
        List mounts = []
        if (args.secret != false) {
            mounts.add([name: 'dockercred', mountPath: '/kaniko/.docker', readOnly: true])
        }
        mounts.add([name: 'build-root', mountPath: '/kaniko/work'])
        if (args.cache) {
            mounts.add([name: 'cache', mountPath: '/cache'])
        }
        container.volumeMounts = mounts
        return container
    }

    @NonCPS
    private static List volumesOf(Map args, String isolation) {
        List volumes = []
        if (args.secret != false) {
            Map secret = [secretName: args.secret instanceof String ? args.secret : 'dockercred']
            if (ROOTLESS.contains(isolation)) {
                secret.defaultMode = 288 // 0440: the builder is no owner of it, but of its group
            }
            secret.items = [[key: '.dockerconfigjson', path: 'config.json']]
            volumes.add([name: 'dockercred', secret: secret])
        }
        volumes.add([name: 'build-root', emptyDir: [sizeLimit: args.workSize ?: '20Gi']])
        for (entry in toolsOf(args).entrySet()) {
            if (entry.key == 'maven' || entry.value.cache) {
                Map place = entry.value.claim ? [persistentVolumeClaim: [claimName: entry.value.claim]] : [emptyDir: [:]]
                volumes.add([name: "${entry.key}-cache".toString()] + place)
            }
        }
        if (args.cache) {
            String claim = args.cache instanceof String ? args.cache : 'pybuild-cache'
            volumes.add([name: 'cache', persistentVolumeClaim: [claimName: claim]])
        }
        return volumes
    }

    @NonCPS
    private static Map resourcesOf(Map args, String name, Map usual) {
        Map sizes = usual + mapOf(mapOf(args.resources)[name])
        // A limit below the usual request lowers that, too.
        String request = sizes.memoryRequest
        if (bytes(request) > bytes(sizes.memory)) {
            request = sizes.memory
        }
        Map requests = [cpu: sizes.cpu, memory: request]
        if (sizes.ephemeralStorage) {
            requests['ephemeral-storage'] = sizes.ephemeralStorage
        }
        return [requests: requests, limits: [memory: sizes.memory]]
    }

    /** A quantity of memory as a number. */
    @NonCPS
    private static double bytes(Object quantity) {
        String text = quantity.toString()
        String unit = text.replaceAll('[0-9.]', '')
        Map units = ['': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, Ki: 1024, Mi: 1048576, Gi: 1073741824, Ti: 1099511627776]
        return units.containsKey(unit) ? text.replaceAll('[A-Za-z]', '').toDouble() * units[unit] : 0
    }

    @NonCPS
    private static List environment(Map variables) {
        List found = []
        for (entry in variables.entrySet()) {
            if (entry.value instanceof Map) {
                Map key = [name: entry.value.secret, key: entry.value.key]
                found.add([name: entry.key, valueFrom: [secretKeyRef: key]])
            } else {
                found.add([name: entry.key, value: "${entry.value}".toString()])
            }
        }
        return found
    }

    @NonCPS
    private static List named(Object names) {
        List found = []
        for (name in Arguments.texts(names)) {
            found.add([name: name])
        }
        return found
    }

    /** The image for this rung and architecture, where only a repository is named. */
    @NonCPS
    private static String imageOf(Map args, String isolation, String usual) {
        String image = args.image ?: usual
        String last = image.substring(image.lastIndexOf('/') + 1)
        if (last.contains(':') || last.contains('@')) {
            return image
        }
        String target = ROOTLESS.contains(isolation) ? 'rootless' : 'debug'
        String suffix = args.arch && args.arch != 'amd64' ? "-${args.arch}" : ''
        return "${image}:${target}${suffix}".toString()
    }

    @NonCPS
    private static String isolationOf(Map args) {
        String usual = args.hostUsers == false ? 'user-namespace' : 'default'
        return args.isolation ? args.isolation.toString() : usual
    }

    @NonCPS
    private static String builderOf(Map args) {
        return (args.container ?: 'kaniko').toString()
    }

    /** By name, each as a map with `image`. */
    @NonCPS
    private static Map toolsOf(Map args) {
        Map found = [:]
        for (entry in (args.tools == null ? TOOLS : (Map) args.tools).entrySet()) {
            boolean alone = entry.value instanceof CharSequence
            found[entry.key.toString()] = alone ? [image: entry.value.toString()] : (Map) entry.value
        }
        return found
    }

    @NonCPS
    private static Map mapOf(Object value) {
        return value == null ? [:] : (Map) value
    }
}
