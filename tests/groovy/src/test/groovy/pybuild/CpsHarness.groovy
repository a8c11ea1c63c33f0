package pybuild

import com.cloudbees.groovy.cps.Continuable
import com.cloudbees.groovy.cps.CpsTransformer
import com.cloudbees.groovy.cps.Envs
import com.cloudbees.groovy.cps.ObjectInputStreamWithLoader
import com.cloudbees.groovy.cps.Outcome
import com.cloudbees.groovy.cps.sandbox.DefaultInvoker
import com.cloudbees.groovy.cps.sandbox.SandboxInvoker
import org.codehaus.groovy.control.CompilerConfiguration

/**
 * Runs a Jenkinsfile with the vars of this repository as a controller does: compiled to continuation
 * passing style, stopped at every step. At each stop the whole program is written down with Java's
 * serialization and read back, as if the controller had been restarted there; what can't be written
 * down fails the test and names the step.
 */
class CpsHarness {
    static final String BLOCK = 'blockOfStep'
    private static final String BLOCK_SOURCE = """
        Object call(String name, Map arguments, Closure body) {
            ${PipelineScript.EDGE}('BEGIN', name, arguments)
            try {
                return body()
            } finally {
                ${PipelineScript.EDGE}('END', name, arguments)
            }
        }
    """

    private static final ThreadLocal<Pipeline> RUNNING = new ThreadLocal<>()
    private static final List<Class> CATEGORIES = Continuable.categories + [SerializableIteration]

    static final File REPOSITORY = new File(System.getProperty('repository')).canonicalFile

    final Pipeline pipeline = new Pipeline()
    /** How often the program was written down and read back, and the bytes that took. */
    int restarts = 0
    long serializedBytes = 0

    private final GroovyShell shell
    private final Sandbox sandbox

    /** With a sandbox it runs as a folder's library does, else as a global one. */
    CpsHarness(Sandbox sandbox = null) {
        this.sandbox = sandbox
        CompilerConfiguration configuration = new CompilerConfiguration()
        configuration.addCompilationCustomizers(sandbox ? new SandboxedCpsTransformer() : new CpsTransformer())
        configuration.scriptBaseClass = PipelineScript.name
        shell = new GroovyShell(CpsHarness.classLoader, new Binding(), configuration)
    }

    static Pipeline running() { RUNNING.get() }

    /** Runs a Jenkinsfile to its end; returns its value or throws what it threw. */
    Object run(String jenkinsfile) {
        Binding names = new Binding()
        names.setVariable(BLOCK, script(BLOCK_SOURCE, 'BlockOfStep', names))
        new File(REPOSITORY, 'vars').eachFileMatch(~/.*\.groovy/) { File file ->
            String name = file.name - '.groovy'
            names.setVariable(name, script(file.getText('UTF-8'), name, names))
        }
        RUNNING.set(pipeline)
        Object invoker = sandbox ? new SandboxInvoker() : new DefaultInvoker()
        sandbox?.register()
        try {
            return drive(new Continuable(script(jenkinsfile, 'WorkflowScript', names), Envs.empty(invoker)))
        } finally {
            sandbox?.unregister()
            RUNNING.remove()
        }
    }

    private Script script(String text, String name, Binding names) {
        Script script = shell.parse(text, name + '.groovy')
        script.binding = names
        return script
    }

    private Object drive(Continuable start) {
        Continuable program = start
        Outcome outcome = program.run0(new Outcome(null, null), CATEGORIES)
        while (program.resumable) {
            StepCall call = (StepCall) outcome.replay()
            program = restarted(program, call)
            outcome = program.run0(answerOf(call), CATEGORIES)
        }
        return outcome.replay()
    }

    private Outcome answerOf(StepCall call) {
        try {
            return new Outcome(pipeline.answer(call), null)
        } catch (Exception thrown) {
            return new Outcome(null, thrown)
        }
    }

    private Continuable restarted(Continuable program, StepCall call) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream()
        try {
            new ObjectOutputStream(bytes).withStream { it.writeObject(program) }
        } catch (NotSerializableException error) {
            throw new AssertionError("a restart at `$call` would lose ${error.message}" as Object)
        }
        restarts += 1
        serializedBytes += bytes.size()
        InputStream stored = new ByteArrayInputStream(bytes.toByteArray())
        return (Continuable) new ObjectInputStreamWithLoader(stored, shell.classLoader).readObject()
    }
}
