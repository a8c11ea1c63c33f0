package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertTrue
import static org.junit.Assert.fail

import groovy.json.JsonOutput
import org.junit.Test

/** The library in the sandbox, as the library of a folder: nothing they use needs an administrator. */
class SandboxTest {
    private final Sandbox sandbox = new Sandbox()
    private final CpsHarness harness = new CpsHarness(sandbox)

    private Object run(String jenkinsfile, Map result = [:], int status = 0) {
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
    void theOtherSteps() {
        Map result = [schema: 1, imageRef: 'a@b', digest: 'sha256:1', tags: ['1'], image: 'r/a', destinations: ['r/a:1'],
            output: [path: 'x'], reports: [sbom: 'sbom.spdx.json'], pushed: true, layers: 1, size: 2]
        run("""kanikoPipeline(image: 'r.example/app', platforms: ['linux/amd64', 'linux/arm64'], cache: [repo: 'c'], sbom: true,
            credentialsId: 'c', secrets: [[id: 'a', credentialsId: 'b']], description: 'html', checks: true, exportEnv: true,
            test: { r -> echo r.imageRef }, notify: { r -> echo r.imageRef })""", result)
        run("""kanikoBuild(images: [[image: 'a'], [image: 'b', tags: 'x']], parallel: true, tags: ['1'])
            kanikoPush(kanikoBuild(image: 'a', tags: ['1'], push: false, output: [type: 'oci', path: 'x']), credentialsId: 'c')
            kanikoCredentials([url: 'a', credentialsId: 'b']) { echo 'x' }
            echo kanikoTags(branch: 'x' * 200).join(' ') + kanikoTags(tag: 'v1.2.3', latest: true).join(' ')
            kanikoPodTemplate(memory: '1Gi', tools: [go: [image: 'go:1', cache: '/c', env: [A: 1]]], isolation: 'restricted',
                nodeSelector: [a: 'b'], podRetention: 'onFailure') { echo 'x' }""", result)
        assertTrue("$sandbox.asked", sandbox.asked > 2000)
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
