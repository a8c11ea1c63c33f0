package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertTrue

import groovy.json.JsonOutput
import org.junit.Test

/** Every example is run to its end; what it typed into shells is kept, to be run for real. */
class ExamplesTest extends StepTest {
    private static final File FOLDER = new File(CpsHarness.REPOSITORY, 'examples/jenkins')
    private static final List<String> ALL = [
        'cache-pvc', 'clone-by-builder', 'declarative', 'declarative-yaml-file', 'monorepo', 'multi-arch', 'pull-request',
        'restricted', 'scripted', 'steps', 'tools',
    ]

    private Pipeline example(String name) {
        File file = name == 'Jenkinsfile' ? new File(CpsHarness.REPOSITORY, 'Jenkinsfile.example') :
            new File(FOLDER, "${name}.Jenkinsfile")
        harness.run(file.getText('UTF-8'))
        File folder = new File(System.getProperty('recorded'))
        folder.mkdirs()
        new File(folder, "${name}.shell").setText(JsonOutput.toJson(
            [shells: shellsOf(), requests: requests, pods: pipeline.called('podTemplate')*.arguments*.yaml]), 'UTF-8')
        assertTrue(pipeline.open.empty)
        return pipeline
    }

    /** Each script with the container that it was typed in, and the variables set around it. */
    private List shellsOf() {
        List open = []
        List found = []
        pipeline.calls.each { StepCall call ->
            if (call.edge == StepCall.Edge.BEGIN) {
                open << call
            } else if (call.edge == StepCall.Edge.END) {
                open.remove(open.size() - 1)
            } else if (call.name == 'sh') {
                List containers = open.findAll { it.name == 'container' }
                found << [
                    container: containers ? containers.last().arguments.name : 'jnlp', script: call.arguments.script,
                    variables: open.findAll { it.name == 'withEnv' }.collectMany { it.arguments.overrides },
                ]
            }
        }
        return found
    }

    @Test
    void thereIsATestForEach() {
        assertEquals(ALL, FOLDER.list().findAll { it.endsWith('.Jenkinsfile') }.collect { it - '.Jenkinsfile' }.sort())
    }

    @Test
    void theShortest() {
        pipeline.files['/home/jenkins/agent/workspace/hello/pom.xml'] = '<project/>'
        pipeline.buildEnvironment.BRANCH_NAME = 'main'
        assertEquals(['mvn -B -ntp package', COMMAND], example('Jenkinsfile').shells())
        assertEquals(['latest', '0123456789ab'], requests[0].tags)
        assertTrue("${harness.restarts}", harness.restarts > 20)
    }

    @Test
    void scripted() {
        assertEquals(3, example('scripted').shells().size())
        assertEquals(['7', 'latest'], requests[0].tags)
        assertEquals(["registry.example.com/team/hello@$DIGEST".toString()], pipeline.echoed())
    }

    @Test
    void declarative() {
        assertEquals(3, example('declarative').shells().size())
        assertEquals(["pushed registry.example.com/team/hello@$DIGEST".toString()], pipeline.echoed())
        assertTrue(pipeline.called('checkout').empty)
        assertEquals(['Checkout', 'Jar', 'Image'], pipeline.called('stage')*.arguments*.name)
        assertTrue(pipeline.called('podTemplate')[0].arguments.yaml.contains('name: kaniko'))
    }

    @Test
    void declarativeThatFails() {
        status = 1
        answers = [[schema: 1, error: [code: 'x', message: 'y']]]
        assertEquals('kanikoBuild: y [x]', refused(new File(FOLDER, 'declarative.Jenkinsfile').text))
        assertEquals(['the image was not pushed'], pipeline.echoed())
    }

    @Test
    void declarativeYamlFile() {
        String template = 'pod-templates/jenkins/maven-kaniko.yaml'
        pipeline.repository[template] = new File(CpsHarness.REPOSITORY, template).text
        pipeline.buildEnvironment.BRANCH_NAME = 'main'
        example('declarative-yaml-file')
        assertEquals(pipeline.repository[template], pipeline.called('podTemplate')[0].arguments.yaml)
        assertEquals(1, pipeline.called('junit').size())
        assertEquals(1, requests.size())
    }

    @Test
    void declarativeOfAnotherBranch() {
        pipeline.repository['pod-templates/jenkins/maven-kaniko.yaml'] = 'x'
        pipeline.buildEnvironment.BRANCH_NAME = 'other'
        harness.run(new File(FOLDER, 'declarative-yaml-file.Jenkinsfile').text)
        assertEquals(0, requests.size())
    }

    @Test
    void tools() {
        pipeline.buildEnvironment.BRANCH_NAME = 'main'
        example('tools')
        assertEquals([null, 'push'], requests*.command)
        assertEquals(['kaniko/shop/result.json', 'kaniko/shop/sbom.spdx.json'], pipeline.archived.keySet().sort())
        assertTrue(pipeline.called('podTemplate')[0].arguments.yaml.contains('npm_config_cache'))
    }

    @Test
    void monorepo() {
        pipeline.buildEnvironment.BRANCH_NAME = 'main'
        example('monorepo')
        assertEquals(['api', 'web', '.'], requests*.context)
        assertEquals(3, pipeline.echoed().size())
    }

    @Test
    void multiArch() {
        pipeline.buildEnvironment.BRANCH_NAME = 'main'
        example('multi-arch')
        assertEquals([null, null, 'manifest'], requests*.command)
    }

    @Test
    void pullRequest() {
        pipeline.buildEnvironment.putAll([BRANCH_NAME: 'PR-5', CHANGE_ID: '5'])
        example('pull-request')
        assertEquals([false], requests*.push)
        assertEquals([readOnly: true], requests[0].cache)
        assertTrue(pipeline.echoed().any { it.startsWith('built sha256:') })
    }

    @Test
    void pullRequestMerged() {
        pipeline.buildEnvironment.putAll([BRANCH_NAME: 'main'])
        harness.run(new File(FOLDER, 'pull-request.Jenkinsfile').text)
        assertEquals([null, 'push'], requests*.command)
        assertTrue(pipeline.echoed().any { it.startsWith('pushed sha256:') })
    }

    @Test
    void restricted() {
        example('restricted')
        assertTrue(pipeline.called('podTemplate')[0].arguments.yaml.contains('runAsNonRoot: true'))
        assertEquals('registry.example.com', requests[0].registries[0].url)
    }

    @Test
    void cachePvc() {
        example('cache-pvc')
        assertTrue(pipeline.called('podTemplate')[0].arguments.yaml.contains('claimName: maven-repository'))
        assertEquals('/cache', requests[0].cache.dir)
    }

    @Test
    void cloneByBuilder() {
        example('clone-by-builder')
        assertEquals([COMMAND], pipeline.shells())
        assertTrue(pipeline.called('checkout').empty)
        assertEquals(['git-robot'], pipeline.called('withCredentials')[0].arguments.bindings*.credentialsId)
    }

    @Test
    void steps() {
        example('steps')
        assertEquals([null, 'push', 'manifest', 'login'], requests*.command)
        assertEquals([COMMAND] * 4 + ['cosign sign --yes registry.example.com/team/hello'], pipeline.shells())
    }
}
