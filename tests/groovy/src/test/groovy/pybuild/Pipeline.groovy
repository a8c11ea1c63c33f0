package pybuild

/** What a step throws to fail the build, as `error` does. */
class StepFailed extends Exception {
    StepFailed(String message) { super(message) }
}

/**
 * The world a pipeline runs in: an agent with files in memory, answers to steps, and the record of what
 * was called. It is never part of the program, as the controller's memory is not.
 */
class Pipeline {
    final Map<String, String> files = [:]
    final Map<String, String> buildEnvironment = [BUILD_NUMBER: '7', JOB_NAME: 'hello']
    final Map<String, String> repository = [:]
    final Map<String, Closure> answers = [:]
    final List<StepCall> calls = []
    final List<StepCall> open = []
    String workspace = '/home/jenkins/agent/workspace/hello'

    /** Answers a step in a test's own words: a closure of (arguments, pipeline). */
    void on(String name, Closure answer) { answers[name] = answer }

    List<StepCall> called(String name) { calls.findAll { it.name == name && it.edge != StepCall.Edge.END } }

    List<String> echoed() { called('echo')*.arguments*.message }

    String currentContainer() { open.reverse().find { it.name == 'container' }?.arguments?.name ?: 'jnlp' }

    Map<String, String> environment() {
        Map<String, String> all = new LinkedHashMap<>(buildEnvironment)
        open.findAll { it.name == 'withEnv' }.each { block ->
            block.arguments.overrides.each { String line ->
                all[line.substring(0, line.indexOf('='))] = line.substring(line.indexOf('=') + 1)
            }
        }
        return all
    }

    boolean hasProperty(String name) {
        return name in ['env', 'scm'] || name == 'POD_LABEL' && open.any { it.name == 'podTemplate' }
    }

    Object property(String name) {
        return name == 'env' ? new LinkedHashMap(environment()) : name == 'scm' ? 'scm' : 'hello_7-abc'
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
            deleteDir: { arguments, pipeline -> files.keySet().removeAll { it.startsWith(absolute('')) } },
            error: { arguments, pipeline -> throw new StepFailed(arguments.message) },
            fileExists: { arguments, pipeline -> files.containsKey(absolute(arguments.file)) },
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

    private static String read(Map<String, String> from, String path) {
        if (!from.containsKey(path)) {
            throw new FileNotFoundException(path)
        }
        return from[path]
    }
}
