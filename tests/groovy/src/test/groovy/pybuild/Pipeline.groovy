package pybuild

/** What a step throws to fail the build, as `error` does. */
class StepFailed extends Exception {
    StepFailed(String message) { super(message) }
}

/** What a step throws whose node is gone. */
class AgentLost extends Exception {
    AgentLost(String message) { super(message) }
}

/**
 * The world a pipeline runs in: an agent with files in memory, answers to steps, and the record of what
 * was called. It is never part of the program, as the controller's memory is not.
 */
class Pipeline {
    final Map<String, String> files = [:]
    final Map<String, String> buildEnvironment = [
        BUILD_NUMBER: '7', JOB_NAME: 'hello', BUILD_URL: 'https://jenkins.example/job/hello/7/',
    ]
    final Map<String, String> repository = [:]
    final Map<String, Closure> answers = [:]
    final List<StepCall> calls = []
    final Map<String, String> archived = [:]
    /** The vars, which a controller finds by name whenever they are called. */
    final Map<String, Script> library = [:]
    List<StepCall> open = []
    String workspace = '/home/jenkins/agent/workspace/hello'
    String description = null
    String result = 'SUCCESS'
    int pods = 0

    /** Answers a step in a test's own words: a closure of (arguments, pipeline). */
    void on(String name, Closure answer) { answers[name] = answer }

    List<StepCall> called(String name) { calls.findAll { it.name == name && it.edge != StepCall.Edge.END } }

    List<String> echoed() { called('echo')*.arguments*.message }

    List<String> shells() { called('sh')*.arguments*.script }

    String currentContainer() { open.reverse().find { it.name == 'container' }?.arguments?.name ?: 'jnlp' }

    Map<String, String> environment() {
        Map<String, String> all = new LinkedHashMap<>(buildEnvironment)
        open.each { block ->
            if (block.name == 'withEnv') {
                block.arguments.overrides.each { String line ->
                    all[line.substring(0, line.indexOf('='))] = line.substring(line.indexOf('=') + 1)
                }
            } else if (block.name == 'withCredentials') {
                block.arguments.bindings.each { all.putAll(bound((Map) it)) }
            }
        }
        return all
    }

    /** What a credential gives: never seen but in the environment. */
    private static Map<String, String> bound(Map binding) {
        String id = binding.credentialsId
        switch (binding['$class']) {
            case 'UsernamePasswordMultiBinding':
                return [(binding.usernameVariable): "user-of-$id".toString(),
                        (binding.passwordVariable): "secret-of-$id".toString()]
            case 'StringBinding': return [(binding.variable): "secret-of-$id".toString()]
            case 'FileBinding': return [(binding.variable): "/secrets/$id".toString()]
            default: throw new IllegalArgumentException("no binding ${binding['$class']}")
        }
    }

    boolean hasProperty(String name) {
        return library.containsKey(name) || name in ['env', 'scm', 'currentBuild'] || name == 'POD_LABEL' && open.any { it.name == 'podTemplate' }
    }

    Object property(String name) {
        switch (name) {
            case 'env': return new Environment()
            case 'currentBuild': return new CurrentBuild()
            case 'scm': return 'scm'
            default: return library[name] ?: 'hello_7-abc'
        }
    }

    /** The value of a step, or its exception. */
    Object answer(StepCall call) {
        calls << call
        if (call.edge == StepCall.Edge.END) {
            assert open.last().name == call.name
            open.remove(open.size() - 1)
            return null
        }
        if (call.edge == StepCall.Edge.BEGIN) {
            open << call
        }
        Closure answer = answers[call.name] ?: usual(call.name)
        return answer == null ? null : answer.call(call.arguments, this)
    }

    String absolute(String path) {
        StepCall dir = open.reverse().find { it.name == 'dir' }
        String base = dir ? dir.arguments.path : workspace
        return path.startsWith('/') ? path : "$base/$path"
    }

    private Closure usual(String name) {
        return [
            archiveArtifacts: { arguments, pipeline -> archive() },
            checkout: { arguments, pipeline -> [GIT_COMMIT: '0123456789abcdef0123', GIT_URL: 'https://git.example/hello.git'] },
            deleteDir: { arguments, pipeline ->
                files.keySet().removeAll { it.startsWith(absolute('')) }
                return null
            },
            error: { arguments, pipeline -> throw new StepFailed(arguments.message) },
            fileExists: { arguments, pipeline -> files.containsKey(absolute(arguments.file)) },
            publishChecks: { arguments, pipeline -> throw new NoSuchMethodError("No such DSL method 'publishChecks'") },
            pwd: { arguments, pipeline -> arguments.tmp ? "${workspace}@tmp".toString() : workspace },
            readFile: { arguments, pipeline -> read(files, absolute(arguments.file)) },
            readTrusted: { arguments, pipeline -> read(repository, arguments.path) },
            sh: { arguments, pipeline -> arguments.returnStatus ? 0 : arguments.returnStdout ? '' : null },
            writeFile: { arguments, pipeline ->
                files[absolute(arguments.file)] = arguments.text
                return null
            },
        ][name]
    }

    private Object archive() {
        String base = absolute('')
        files.each { path, text ->
            if (path.startsWith(base)) {
                archived[path.substring(base.length())] = text
            }
        }
        return null
    }

    private static String read(Map<String, String> from, String path) {
        if (!from.containsKey(path)) {
            throw new FileNotFoundException(path)
        }
        return from[path]
    }
}
