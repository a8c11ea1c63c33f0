package pybuild

import com.cloudbees.groovy.cps.Continuable
import com.cloudbees.groovy.cps.SerializableScript
import org.codehaus.groovy.runtime.InvokerHelper

/**
 * What a Jenkinsfile and a var are compiled into here. A name that the script does not have itself is
 * a var of the library or a step, in this order, as in a pipeline. A step suspends the program: only
 * the harness, which then holds the whole program as a value, answers it.
 */
abstract class PipelineScript extends SerializableScript {
    /** Only {@link CpsHarness#BLOCK} may call it: the two ends of a step with a body. */
    static final String EDGE = 'edgeOfBlock'

    @Override
    Object invokeMethod(String name, Object args) {
        List<Object> given = InvokerHelper.asList(args)
        Map<String, Script> library = CpsHarness.running().library
        if (library.containsKey(name)) {
            return InvokerHelper.invokeMethod(library[name], 'call', args)
        }
        if (name == EDGE) {
            return Continuable.suspend(name, new StepCall(given[1], given[2], given[0]))
        }
        StepCall call = Step.called(name, given)
        if (given && given.last() instanceof Closure) {
            Object block = library[CpsHarness.BLOCK]
            return InvokerHelper.invokeMethod(block, 'call', [name, call.arguments, given.last()] as Object[])
        }
        return Continuable.suspend(name, call)
    }

    @Override
    Object getProperty(String name) {
        try {
            return super.getProperty(name)
        } catch (MissingPropertyException missing) {
            Pipeline pipeline = CpsHarness.running()
            if (!pipeline.hasProperty(name)) {
                throw missing
            }
            return pipeline.property(name)
        }
    }
}
