package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertTrue
import static org.junit.Assert.fail

import groovy.json.JsonOutput
import org.junit.Test

/** The vars in the sandbox, as the library of a folder: nothing they use needs an administrator. */
class SandboxTest {
    private final Sandbox sandbox = new Sandbox()
    private final CpsHarness harness = new CpsHarness(sandbox)

    private Object run(String jenkinsfile, Map result, int status) {
        harness.pipeline.on('sh') { arguments, pipeline ->
            String request = pipeline.environment().PYBUILD_REQUEST
            pipeline.files[request.replace('request.json', 'result.json')] = JsonOutput.toJson(result)
            return status
        }
        return harness.run(jenkinsfile)
    }

    private String failure(String jenkinsfile, Map result, int status) {
        try {
            run(jenkinsfile, result, status)
        } catch (StepFailed error) {
            return error.message
        }
        fail('it did not fail')
        return ''
    }

    @Test
    void aBuild() {
        Object value = run('''return kanikoBuild("r.example/${'app'}", tags: ['1'], buildArgs: [A: [1, true, null]],
            cache: [repo: 'c'], shell: '/bin/sh')''', [imageRef: 'a@b', tags: ['1']], 0)
        assertEquals('a@b', value.imageRef)
        assertTrue("$sandbox.asked", sandbox.asked > 50)
    }

    @Test
    void aMistake() {
        assertTrue(failure('kanikoBuild(imag: 1)', [:], 0).contains("'image'"))
        assertTrue(failure('kanikoBuild()', [:], 0).contains('nowhere'))
        assertTrue(failure('kanikoBuild(image: { 1 })', [:], 0).contains('made of'))
    }

    @Test
    void aFailure() {
        Map error = [file: 'Dockerfile', line: 1, text: 'X', message: 'm', code: 'c', hint: 'h']
        assertTrue(failure("kanikoBuild(push: false)", [error: error], 1).contains('Dockerfile:1: X: m [c] (h)'))
        assertTrue(failure("kanikoBuild(push: false)", [:], 137).contains('memory limit'))
    }

    @Test
    void theSandboxIsThere() {
        String plain = '@com.cloudbees.groovy.cps.NonCPS def made() { new File("/") }; made()'
        [(plain): 'new java.io.File', 'new File("/")': 'new java.io.File', '"x".execute()': 'execute',
            'System.getenv("A")': 'staticMethod java.lang.System getenv', '[1].stream()': 'stream'].each { code, signature ->
            try {
                harness.run(code)
                fail("$code was permitted")
            } catch (SecurityException expected) {
                assertTrue(expected.message, expected.message.contains(signature))
            }
        }
    }
}
