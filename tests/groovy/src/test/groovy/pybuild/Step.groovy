package pybuild

/** The steps that exist, with their parameters and types; the first may be given without its name. */
class Step {
    private static final Class TEXT = CharSequence
    private static final Class FLAG = Boolean

    static final Map<String, Map<String, Class>> KNOWN = [
        always: [:],
        archiveArtifacts: [artifacts: TEXT, allowEmptyArchive: FLAG, fingerprint: FLAG],
        checkout: [scm: Object],
        container: [name: TEXT, shell: TEXT],
        deleteDir: [:],
        dir: [path: TEXT],
        echo: [message: TEXT],
        error: [message: TEXT],
        fileExists: [file: TEXT],
        junit: [testResults: TEXT, allowEmptyResults: FLAG],
        kubernetesAgent: [:],
        never: [:],
        node: [label: TEXT],
        nonresumable: [:],
        onFailure: [:],
        podTemplate: [yaml: TEXT, showRawYaml: FLAG, cloud: TEXT, namespace: TEXT, inheritFrom: TEXT,
                      idleMinutes: Integer, slaveConnectTimeout: Integer, workspaceVolume: Object, podRetention: Object],
        publishChecks: [name: TEXT, title: TEXT, summary: TEXT, conclusion: TEXT],
        pwd: [tmp: FLAG],
        readFile: [file: TEXT, encoding: TEXT],
        readTrusted: [path: TEXT],
        retry: [count: Integer, conditions: List],
        sh: [script: TEXT, returnStatus: FLAG, returnStdout: FLAG, label: TEXT, encoding: TEXT],
        stage: [name: TEXT],
        stash: [name: TEXT, includes: TEXT],
        timeout: [time: Number, unit: TEXT],
        unstash: [name: TEXT],
        withCredentials: [bindings: List],
        withEnv: [overrides: List],
        writeFile: [file: TEXT, text: TEXT, encoding: TEXT],
    ]

    /** A call as the pipeline wrote it, with every argument named; as strict as the real steps. */
    static StepCall called(String name, List<Object> given) {
        if (name == 'parallel') {
            return branches((Map) given[0])
        }
        Map<String, Class> parameters = KNOWN[name]
        if (parameters == null) {
            throw new NoSuchMethodError("No such DSL method '$name' found among steps")
        }
        List<Object> values = given && given.last() instanceof Closure ? given[0..<-1] : given
        Map<String, Object> arguments = [:]
        if (values.size() == 1 && values[0] instanceof Map) {
            arguments.putAll((Map) values[0])
        } else if (values.size() == 1 && parameters) {
            arguments[parameters.keySet().first()] = values[0]
        } else if (values) {
            throw new IllegalArgumentException("Expected named arguments but got $values")
        }
        Map<String, Object> plain = [:]
        arguments.each { key, value ->
            Class type = parameters[key.toString()]
            if (type == null) {
                throw new IllegalArgumentException("Unknown parameter '$key' of $name")
            }
            if (value != null && !type.isInstance(value)) {
                throw new ClassCastException("$name.$key expects $type.simpleName but received ${value.class}")
            }
            plain[key.toString()] = value instanceof CharSequence ? value.toString() : value
        }
        return new StepCall(name, plain)
    }

    private static StepCall branches(Map given) {
        given.each { key, value ->
            boolean right = key == 'failFast' ? value instanceof Boolean : value instanceof Closure
            if (!right) {
                throw new IllegalArgumentException("parallel takes closures by name, not $key: $value")
            }
        }
        Map<String, Object> named = [:]
        given.each { key, value -> named[key.toString()] = value }
        return new StepCall('parallel', named)
    }
}
