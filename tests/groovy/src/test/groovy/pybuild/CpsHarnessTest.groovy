package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertTrue
import static org.junit.Assert.fail

import org.junit.Test

/** That the harness sees what a controller would: otherwise the other tests prove nothing. */
class CpsHarnessTest {
    private final CpsHarness harness = new CpsHarness()

    @Test
    void everyStepIsARestart() {
        Object value = harness.run('''
            def names = []
            for (name in ['a', 'b']) { echo name; names << name }
            [x: 1, y: 2].each { key, count -> echo "${key}${count}" }
            withEnv(['A=1']) { names << env.A; sh 'true' }
            return names
        ''')
        assertEquals(['a', 'b', '1'], value)
        assertEquals(['a', 'b', 'x1', 'y2'], harness.pipeline.echoed())
        assertEquals(7, harness.restarts)
        assertTrue(harness.serializedBytes > 1000)
    }

    @Test
    void aMatcherAliveOverAStepIsFound() {
        try {
            harness.run('''def matcher = 'abc' =~ /b/; echo 'x'; return matcher.find()''')
            fail('not found')
        } catch (AssertionError error) {
            assertTrue(error.message, error.message.contains('java.util.regex.Matcher'))
            assertTrue(error.message, error.message.contains('echo(message: x)'))
        }
    }

    @Test
    void lazyJsonAliveOverAStepIsFound() {
        try {
            harness.run('''def json = new groovy.json.JsonSlurper().parseText('{"a": {"b": 1}}'); echo 'x'; json''')
            fail('not found')
        } catch (AssertionError error) {
            assertTrue(error.message, error.message.contains('LazyMap'))
        }
    }

    @Test
    void sortingWithAClosureIsAsWrongAsInJenkins() {
        assertEquals(-1, harness.run('''return [3, 1, 2].toSorted { a, b -> a <=> b }'''))
    }

    @Test
    void aFailingStepIsCaughtAndTheBlockIsLeft() {
        assertEquals('caught no', harness.run('''
            try {
                container('a') { error 'no' }
            } catch (Exception thrown) {
                return 'caught ' + thrown.message
            }
        '''))
        assertTrue(harness.pipeline.open.empty)
    }

    @Test(expected = NoSuchMethodError)
    void anUnknownStepIsAnError() { harness.run('''noSuchStep 'x' ''') }

    @Test(expected = IllegalArgumentException)
    void anUnknownParameterOfAStepIsAnError() { harness.run('''sh script: 'x', returnstatus: true''') }

    @Test(expected = ClassCastException)
    void echoTakesTextOnly() { harness.run('''echo([1, 2])''') }

    @Test(expected = MissingPropertyException)
    void thePodsLabelIsKnownOnlyInAPodTemplate() { harness.run('''return POD_LABEL''') }
}
