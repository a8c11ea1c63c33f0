package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertFalse
import static org.junit.Assert.assertTrue
import static org.junit.Assert.fail

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TestName

class KanikoBuildTest {
    private static final String COMMAND = 'pybuild request "$PYBUILD_REQUEST"'
    private static final String IMAGE = "image: 'r.example/app', tags: ['1']"

    @Rule
    public final TestName test = new TestName()

    private final CpsHarness harness = new CpsHarness()
    private final Pipeline pipeline = harness.pipeline
    private final List<Map> requests = []
    private Map result = [schema: 1, imageRef: 'r.example/app@sha256:0', size: 42, layers: 3, tags: ['1']]
    private int status = 0

    @Before
    void theBuilder() {
        pipeline.on('sh') { arguments, pipeline ->
            if (arguments.script != COMMAND) {
                return null
            }
            String path = pipeline.environment().PYBUILD_REQUEST
            String text = pipeline.files[path]
            requests << (Map) new JsonSlurper().parseText(text)
            record(text)
            if (result != null) {
                pipeline.files[path.replace('request.json', 'result.json')] = JsonOutput.toJson(result)
            }
            return status
        }
    }

    /** Kept for the contract test: the requests are fed to the real command's parser. */
    private void record(String text) {
        File folder = new File(System.getProperty('recorded'))
        folder.mkdirs()
        new File(folder, "${test.methodName}-${requests.size()}.json").setText(text, 'UTF-8')
    }

    private String refused(String jenkinsfile) {
        try {
            harness.run(jenkinsfile)
        } catch (StepFailed error) {
            return error.message
        }
        fail('nothing was refused')
        return ''
    }

    @Test
    void oneRequestOneConstantCommandOneResult() {
        Object value = harness.run("return kanikoBuild($IMAGE)")
        assertEquals([[schema: 1, image: 'r.example/app', tags: ['1']]], requests)
        assertEquals([COMMAND], pipeline.called('sh')*.arguments*.script)
        assertEquals('r.example/app@sha256:0', value.imageRef)
        assertEquals([name: 'kaniko'], pipeline.called('container').first().arguments)
    }

    @Test
    void everyArgumentArrives() {
        harness.run('''kanikoBuild(
            image: 'r.example/app', tags: ['1', '2'], destinations: ['other/app:3'], context: 'sub dir',
            dockerfile: 'a/Dockerfile', target: 'last', buildArgs: [A: '1', B: null, C: 2, D: true],
            labels: [team: 'x'], secrets: [npm: [file: '/s/npm'], key: [env: 'KEY']],
            insecureRegistries: ['r.example'], registryMirrors: ['m.example'],
            cache: [repo: 'r.example/cache', dir: '/cache'], push: true,
            output: [type: 'tar', path: 'image.tar'], verbosity: 'debug', dryRun: true)''')
        assertEquals([
            schema: 1, image: 'r.example/app', tags: ['1', '2'], destinations: ['other/app:3'],
            context: 'sub dir', dockerfile: 'a/Dockerfile', target: 'last',
            buildArgs: [A: '1', B: null, C: 2, D: true], labels: [team: 'x'],
            secrets: [npm: [file: '/s/npm'], key: [env: 'KEY']], insecureRegistries: ['r.example'],
            registryMirrors: ['m.example'], cache: [repo: 'r.example/cache', dir: '/cache'], push: true,
            output: [type: 'tar', path: 'image.tar'], verbosity: 'debug', dryRun: true,
        ], requests[0])
    }

    @Test
    void theShortFormTakesTheImageFirst() {
        harness.run("kanikoBuild 'r.example/app', tags: ['1'], cache: false")
        assertEquals([schema: 1, image: 'r.example/app', tags: ['1'], cache: false], requests[0])
    }

    @Test
    void withoutPushNoDestinationIsNeeded() {
        harness.run("kanikoBuild push: false, output: [type: 'oci', path: 'out']")
        assertEquals([schema: 1, push: false, output: [type: 'oci', path: 'out']], requests[0])
    }

    @Test
    void aGStringIsTextAsKeyAndAsValue() {
        harness.run('''def name = 'A'; kanikoBuild image: "r.example/${name.toLowerCase()}",
            tags: ["v${1 + 1}"], buildArgs: [("${name}_KEY".toString()): "x${name}", ("${name}"): 1]''')
        assertEquals([A_KEY: 'xA', A: 1], requests[0].buildArgs)
        assertEquals(['v2'], requests[0].tags)
    }

    @Test
    void hostileTextStaysInTheFile() {
        String hostile = '$(reboot) `id` "; rm -rf / \' \\n \u00e9 \u2028'
        pipeline.on('readFile') { arguments, pipeline ->
            arguments.file == 'hostile' ? hostile : pipeline.files[arguments.file]
        }
        harness.run('''def text = readFile('hostile')
            kanikoBuild image: 'r.example/app', tags: ['1'], context: text, buildArgs: [(text): text]''')
        assertEquals(hostile, requests[0].context)
        assertEquals([(hostile): hostile], requests[0].buildArgs)
        assertEquals([COMMAND], pipeline.called('sh')*.arguments*.script)
        assertFalse(pipeline.called('withEnv').toString().contains('reboot'))
    }

    @Test
    void anUnknownArgumentNamesTheNearest() {
        String message = refused("kanikoBuild($IMAGE, dockerFile: 'x')")
        assertEquals("kanikoBuild: unknown argument 'dockerFile'; did you mean 'dockerfile'?", message)
        assertTrue(refused("kanikoBuild($IMAGE, buildArg: [:])").contains("'buildArgs'"))
        assertTrue(refused("kanikoBuild($IMAGE, registryMirror: [])").contains("'registryMirrors'"))
        assertTrue(pipeline.called('sh').empty)
    }

    @Test
    void aPushToNowhereIsRefused() {
        assertTrue(refused('kanikoBuild()').contains('nowhere to push'))
        assertTrue(refused("kanikoBuild(context: '.')").contains('nowhere to push'))
        assertTrue(pipeline.called('sh').empty)
    }

    @Test
    void whatIsNoDataIsRefused() {
        assertTrue(refused("kanikoBuild($IMAGE, context: { 1 })").contains("'context' has to be made of"))
        assertTrue(refused("kanikoBuild($IMAGE, buildArgs: [A: [new Date()]])").contains("'buildArgs'"))
    }

    @Test
    void theImageGivenTwiceIsRefused() {
        assertTrue(refused("kanikoBuild('a', $IMAGE)").contains('twice'))
    }

    @Test
    void aFailureIsToldInTheBuildersWords() {
        status = 7
        result = [schema: 1, error: [code: 'run-failed', message: 'the command ended with 7', hint: 'look above',
            file: 'Dockerfile', line: 3, text: 'RUN false', exitStatus: 7]]
        assertEquals('kanikoBuild: Dockerfile:3: RUN false: the command ended with 7 [run-failed] (look above)',
            refused("kanikoBuild($IMAGE)"))
    }

    @Test
    void aFailureWithoutAPlaceNamesNone() {
        status = 1
        result = [schema: 1, error: [code: 'unauthorized', message: 'no', hint: '', file: '', line: 0, text: '']]
        assertEquals('kanikoBuild: no [unauthorized]', refused("kanikoBuild($IMAGE)"))
    }

    @Test
    void aBuilderThatDiedIsExplained() {
        result = null
        [127: "no 'pybuild'", 137: 'memory limit', 143: 'stopped', 2: 'left no result'].each { code, words ->
            status = code
            String message = refused("kanikoBuild($IMAGE)")
            assertTrue(message, message.contains(words))
            assertTrue(message, message.contains("status $code"))
        }
    }

    @Test
    void aSuccessWithoutAResultIsNone() {
        result = null
        assertTrue(refused("kanikoBuild($IMAGE)").contains('left no result'))
    }

    @Test
    void nothingIsLeftBehindAlsoAfterAFailure() {
        harness.run("kanikoBuild($IMAGE)")
        status = 1
        result = [schema: 1, error: [code: 'x', message: 'y']]
        refused("kanikoBuild($IMAGE)")
        assertEquals([:], pipeline.files)
    }

    @Test
    void theRequestLiesOutsideTheWorkspaceAndBelongsToOneCall() {
        harness.run("kanikoBuild($IMAGE); kanikoBuild($IMAGE)")
        List<String> written = pipeline.called('writeFile')*.arguments*.file
        assertEquals(2, written.toSet().size())
        written.each { assertTrue(it, it.startsWith("${pipeline.workspace}@tmp/pybuild-")) }
    }

    @Test
    void anInterruptedBuildCleansUpAndGoesOnToFail() {
        pipeline.on('sh') { arguments, pipeline -> throw new InterruptedException('aborted') }
        try {
            harness.run("kanikoBuild($IMAGE)")
            fail('the interruption was swallowed')
        } catch (InterruptedException expected) {
            assertEquals([:], pipeline.files)
            assertTrue(pipeline.open.empty)
        }
    }

    @Test
    void containerAndShellCanBeChosen() {
        harness.run("kanikoBuild($IMAGE, container: 'builder', shell: '/busybox/sh')")
        assertEquals([name: 'builder', shell: '/busybox/sh'], pipeline.called('container').first().arguments)
        harness.run("container('x') { kanikoBuild($IMAGE, container: '') }")
        assertEquals(2, pipeline.called('container').size())
        assertFalse(requests[0].containsKey('container'))
    }

    @Test
    void theResultIsPlainDataThatLivesAcrossSteps() {
        result = [schema: 1, imageRef: 'a@b', tags: ['1'], nested: [a: [b: 1]]]
        Object value = harness.run("def r = kanikoBuild($IMAGE); echo r.imageRef; echo r.tags[0]; return r")
        assertEquals(LinkedHashMap, value.getClass())
        assertEquals(LinkedHashMap, value.nested.a.getClass())
        assertEquals(['a@b', '1'], pipeline.echoed())
    }

    @Test
    void theExampleRuns() {
        String template = 'pod-templates/jenkins/maven-kaniko.yaml'
        pipeline.repository[template] = new File(CpsHarness.REPOSITORY, template).text
        harness.run(new File(CpsHarness.REPOSITORY, 'Jenkinsfile.example').text)
        assertEquals(['mvn -B -ntp package', COMMAND], pipeline.called('sh')*.arguments*.script)
        assertEquals(['7', 'latest'], requests[0].tags)
        assertEquals(['r.example/app@sha256:0'], pipeline.echoed())
        assertTrue("${harness.restarts}", harness.restarts > 20)
    }
}
