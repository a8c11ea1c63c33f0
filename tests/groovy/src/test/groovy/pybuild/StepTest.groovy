package pybuild

import static org.junit.Assert.assertFalse
import static org.junit.Assert.fail

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.junit.After
import org.junit.Before
import org.junit.Rule
import org.junit.rules.TestName

/** A pipeline with a builder that answers every request; what it was asked is recorded. */
abstract class StepTest {
    public static final String COMMAND = '"${PYBUILD_BUILDER:-pybuild}" request "$PYBUILD_REQUEST"'
    public static final String DIGEST = 'sha256:' + '0' * 64

    @Rule
    public final TestName test = new TestName()

    final CpsHarness harness = new CpsHarness()
    final Pipeline pipeline = harness.pipeline
    final List<Map> requests = []
    /** Replaces the answer where a test has one; `null` as value: the builder leaves no result. */
    List<Map> answers = []
    int status = 0

    @Before
    void theBuilder() {
        pipeline.on('sh') { arguments, pipeline ->
            if (arguments.script != COMMAND) {
                return arguments.returnStatus ? 0 : ''
            }
            String path = pipeline.environment().PYBUILD_REQUEST
            String text = pipeline.files[path]
            Map request = (Map) new JsonSlurper().parseText(text)
            requests << request
            record(text)
            Map result = answers ? answers[0] : carriedOut(request, pipeline)
            if (result != null) {
                pipeline.files[path.replace('request.json', 'result.json')] = JsonOutput.toJson(result)
            }
            return status
        }
    }

    /** What the builder would say, as docs/jenkins.md has it. */
    static Map carriedOut(Map request, Pipeline pipeline) {
        if (request.command == 'login') {
            pipeline.files["${request.configFolder}/config.json".toString()] = '{}'
            return [schema: 1]
        }
        if (request.dryRun) {
            return [schema: 1]
        }
        boolean pushed = request.push != false
        List tags = request.tags ?: []
        List references = tags.collect { "${request.image}:$it".toString() } + (request.destinations ?: [])
        String image = request.image ?: references ? (request.image ?: references[0].replaceAll(':[^:/]*$', '')) : ''
        if (request.sbom && request.reports) {
            pipeline.files["${request.reports}/sbom.spdx.json".toString()] = '{}'
        }
        return [
            schema: 1, image: image, digest: DIGEST, imageRef: pushed ? "$image@$DIGEST".toString() : '', tags: tags,
            destinations: references, platform: request.platform ?: '', pushed: pushed, size: 42, layers: 3,
            cacheHits: 1, cacheMisses: 2, durationMs: 5, labels: [:], output: request.output ?: [:], outputs: [],
            reports: request.sbom ? [sbom: 'sbom.spdx.json'] : [:],
        ]
    }

    /** Kept for the contract test: the requests are fed to the real command's parser. */
    void record(String text) {
        File folder = new File(System.getProperty('recorded'))
        folder.mkdirs()
        String name = "${getClass().simpleName}-${test.methodName}-${requests.size()}"
        new File(folder, "${name}.json").setText(text, 'UTF-8')
        new File(folder, "${name}.environment").setText(pipeline.environment().keySet().join('\n'), 'UTF-8')
    }

    /** No test may show a secret: not in a request, a Pod, an argument of a step, the log or what is archived. */
    @After
    void noSecretIsSeen() {
        List shown = pipeline.calls.findAll { it.name != 'parallel' }*.toString() + requests*.toString() +
            pipeline.archived.values() + [pipeline.description]
        shown.each { assertFalse("$it", "$it".contains('secret-of-')) }
    }

    /** The request without what every one of them has. */
    Map asked(int number = 0) {
        return requests[number].findAll { !(it.key in ['schema', 'reports', 'ociLabels', 'invocation']) }
    }

    String refused(String jenkinsfile) {
        try {
            harness.run(jenkinsfile)
        } catch (StepFailed error) {
            return error.message
        }
        fail('nothing was refused')
        return ''
    }
}
