package pybuild

import com.cloudbees.groovy.cps.Continuable
import com.cloudbees.groovy.cps.CpsTransformer
import com.cloudbees.groovy.cps.Envs
import com.cloudbees.groovy.cps.ObjectInputStreamWithLoader
import com.cloudbees.groovy.cps.Outcome
import com.cloudbees.groovy.cps.sandbox.DefaultInvoker
import com.cloudbees.groovy.cps.sandbox.SandboxInvoker
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.runtime.InvokerHelper

/**
 * Runs a Jenkinsfile with the vars of this repository as a controller does: compiled to continuation
 * passing style, stopped at every step. At each stop the whole program, all branches of `parallel`
 * together, is written down with Java's serialization and read back, as if the controller had been
 * restarted there; what can't be written down fails the test and names the step.
 */
class CpsHarness {
    static final String BLOCK = 'blockOfStep'
    private static final String BLOCK_SOURCE = """
        Object call(String name, Map arguments, Closure body) {
            int attempts = name == 'retry' ? arguments.count : 1
            for (int attempt = 1; true; attempt++) {
                ${PipelineScript.EDGE}('BEGIN', name, arguments)
                try {
                    return body()
                } catch (pybuild.AgentLost lost) {
                    if (attempt >= attempts) {
                        throw lost
                    }
                } finally {
                    ${PipelineScript.EDGE}('END', name, arguments)
                }
            }
        }
    """
    private static final String BRANCH_SOURCE = 'return body()'

    private static final ThreadLocal<Pipeline> RUNNING = new ThreadLocal<>()
    private static final List<Class> CATEGORIES = Continuable.categories + [SerializableIteration]

    static final File REPOSITORY = new File(System.getProperty('repository')).canonicalFile
    private static final File DECLARATIVE = new File(REPOSITORY, 'tests/groovy/src/test/cps/pipeline.groovy')

    final Pipeline pipeline = new Pipeline()
    /** How often the program was written down and read back, and the bytes that took. */
    int restarts = 0
    long serializedBytes = 0
    /** The most branches that were there at once. */
    int mostStrands = 1

    // The library is compiled once, as a controller does it once a build: with a sandbox, and without.
    private static final Map<Boolean, GroovyShell> SHELLS = [:]
    private static final Map<List, Class> COMPILED = [:]

    private final GroovyShell shell
    private final Sandbox sandbox
    private final Closure edited
    private List<Strand> strands = []
    private List<Continuable> programs = []

    /**
     * With a sandbox it runs as a folder's library does, else as a global one. `edited` may change the text of
     * a var, to plant mistakes: a closure of its name and text.
     */
    CpsHarness(Sandbox sandbox = null, Closure edited = { String name, String text -> text }) {
        this.sandbox = sandbox
        this.edited = edited
        shell = SHELLS.computeIfAbsent(sandbox != null) { newShell(it) }
    }

    private static GroovyShell newShell(boolean sandboxed) {
        CompilerConfiguration configuration = new CompilerConfiguration()
        configuration.addCompilationCustomizers(sandboxed ? new SandboxedCpsTransformer() : new CpsTransformer())
        configuration.scriptBaseClass = PipelineScript.name
        GroovyShell shell = new GroovyShell(CpsHarness.classLoader, new Binding(), configuration)
        shell.classLoader.addClasspath(new File(REPOSITORY, 'src').path)
        return shell
    }

    static Pipeline running() { RUNNING.get() }

    /** Runs a Jenkinsfile to its end; returns its value or throws what it threw. */
    Object run(String jenkinsfile) {
        pipeline.library[BLOCK] = script(BLOCK_SOURCE, 'BlockOfStep')
        pipeline.library.pipeline = script(DECLARATIVE.getText('UTF-8'), 'Declarative')
        new File(REPOSITORY, 'vars').eachFileMatch(~/.*\.groovy/) { File file ->
            String name = file.name - '.groovy'
            pipeline.library[name] = script((String) edited.call(name, file.getText('UTF-8')), name)
        }
        RUNNING.set(pipeline)
        sandbox?.register()
        try {
            strands = [new Strand(null, '')]
            programs = [continuable(script(jenkinsfile, 'WorkflowScript'))]
            return drive()
        } finally {
            sandbox?.unregister()
            RUNNING.remove()
        }
    }

    private Continuable continuable(Script script) {
        return new Continuable(script, Envs.empty(sandbox ? new SandboxInvoker() : new DefaultInvoker()))
    }

    private Script script(String text, String name, Binding names = new Binding()) {
        List key = [sandbox != null, name, text]
        Class type = COMPILED[key]
        if (type == null) {
            // Every text has a name of its own: what was written down is read back by name.
            type = shell.classLoader.parseClass(text, "${name}${COMPILED.size()}.groovy")
            COMPILED[key] = type
        }
        return InvokerHelper.createScript(type, names)
    }

    /** One step of each branch in turn, so that branches are mixed as much as they can be. */
    private Object drive() {
        int turn = -1
        while (true) {
            turn = following(turn)
            Strand strand = strands[turn]
            pipeline.open = strand.open
            Outcome given = strand.next
            strand.next = null
            Outcome outcome = programs[turn].run0(given, CATEGORIES)
            if (programs[turn].resumable) {
                StepCall call = restarted((StepCall) outcome.replay())
                if (call.name == 'parallel') {
                    fork(strand, call)
                } else {
                    strand.next = answerOf(call)
                }
            } else if (strand.parent == null) {
                return outcome.replay()
            } else {
                strand.ended = true
                join(strand, outcome)
            }
        }
    }

    private int following(int turn) {
        for (int i = 1; i <= strands.size(); i++) {
            int index = (turn + i) % strands.size()
            if (strands[index].next != null && !strands[index].ended) {
                return index
            }
        }
        throw new IllegalStateException('no branch can go on')
    }

    private void fork(Strand parent, StepCall call) {
        pipeline.calls << call
        parent.results.clear()
        parent.firstFailure = null
        parent.failFast = call.arguments.failFast == true
        call.arguments.each { String name, Object body ->
            if (name != 'failFast') {
                Binding own = new Binding([body: body])
                programs << continuable(script(BRANCH_SOURCE, 'Branch', own))
                strands << new Strand(parent, name)
                parent.waitsFor += 1
            }
        }
        mostStrands = Math.max(mostStrands, strands.count { !it.ended } as int)
        if (parent.waitsFor == 0) {
            parent.next = new Outcome([:], null)
        }
    }

    private void join(Strand strand, Outcome outcome) {
        Strand parent = strand.parent
        assert strand.open.size() == parent.open.size(): "branch ${strand.branch} ended within a block"
        try {
            parent.results[strand.branch] = outcome.replay()
        } catch (Throwable thrown) {
            parent.firstFailure = parent.firstFailure ?: thrown
            if (parent.failFast) {
                strands.findAll { !it.ended && it.isBelow(parent) && it.waitsFor == 0 }.each {
                    it.next = new Outcome(null, new FlowInterrupted())
                }
            }
        }
        parent.waitsFor -= 1
        if (parent.waitsFor == 0) {
            Map values = new LinkedHashMap(parent.results)
            parent.next = parent.firstFailure ? new Outcome(null, parent.firstFailure) : new Outcome(values, null)
        }
    }

    private Outcome answerOf(StepCall call) {
        try {
            return new Outcome(pipeline.answer(call), null)
        } catch (Exception | NoSuchMethodError thrown) {
            return new Outcome(null, thrown)
        }
    }

    /** Everything is replaced by what was written down, the call's own closures included. */
    private StepCall restarted(StepCall call) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream()
        List<Integer> alive = (0..<strands.size()).findAll { !strands[it].ended }
        try {
            new ObjectOutputStream(bytes).withStream {
                it.writeObject([new ArrayList(alive.collect { programs[it] }), call] as Object[])
            }
        } catch (NotSerializableException error) {
            throw new AssertionError("a restart at `$call` would lose ${error.message}" as Object)
        }
        restarts += 1
        serializedBytes += bytes.size()
        InputStream stored = new ByteArrayInputStream(bytes.toByteArray())
        Object[] read = (Object[]) new ObjectInputStreamWithLoader(stored, shell.classLoader).readObject()
        alive.eachWithIndex { int index, int place -> programs[index] = ((List<Continuable>) read[0])[place] }
        return (StepCall) read[1]
    }
}

/** What the other branches of `parallel(failFast: true)` get when one has failed. */
class FlowInterrupted extends Exception {
    FlowInterrupted() { super('interrupted') }
}
