package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertFalse
import static org.junit.Assert.assertTrue
import static org.junit.Assert.fail

import org.junit.Test

/** The steps beside kanikoBuild. */
class StepsTest extends StepTest {
    @Test
    void tagsFollowTheBranch() {
        String long1 = 'x' * 200 + '1', long2 = 'x' * 200 + '2'
        [
            "tag: 'v1.2.3'": ['v1.2.3', '1.2.3', '1.2', '1'],
            "tag: '1.2.3'": ['1.2.3', '1.2', '1'],
            "tag: 'v1.2.3', latest: true": ['v1.2.3', '1.2.3', '1.2', '1', 'latest'],
            "tag: 'v1.2.3-rc.1', latest: true": ['v1.2.3-rc.1', '1.2.3-rc.1'],
            "tag: 'v1.2.3+build'": ['v1.2.3-build', '1.2.3-build'],
            "tag: 'v0.2.3'": ['v0.2.3', '0.2.3'],
            "tag: 'v1.2'": ['v1.2'],
            "tag: 'release/7'": ['release-7'],
            "branch: 'main', commit: '0123456789abcdef', build: '7'": ['latest', '0123456789ab'],
            "branch: 'main', commit: '', build: '7'": ['latest', 'main-7'],
            "branch: 'trunk', primary: true, build: '7'": ['latest', 'trunk-7'],
            "branch: 'trunk', primaryBranches: ['trunk'], build: '7'": ['latest', 'trunk-7'],
            "branch: 'main', primaryBranches: ['trunk'], build: '7'": ['main', 'main-7'],
            "branch: 'feature/JIRA-1 x', build: '7'": ['feature-JIRA-1-x', 'feature-JIRA-1-x-7'],
            "branch: 'a%2Fb', build: ''": ['a-b'],
            "branch: '.-a', build: ''": ['a'],
            "branch: '///', build: ''": ['x'],
            "change: '12', branch: 'PR-12'": ['pr-12'],
            "build: '9'": ['build-9'],
            "build: ''": ['build'],
        ].each { arguments, expected -> assertEquals(arguments, expected, harness.run("return kanikoTags($arguments)")) }
        List cut = harness.run("return kanikoTags(branch: '$long1', build: '') + kanikoTags(branch: '$long2', build: '')")
        assertEquals([128, 128], cut*.length())
        assertFalse(cut[0] == cut[1])
        assertTrue(pipeline.calls.empty)
    }

    @Test
    void tagsAreTakenFromTheBuildWhereNothingIsSaid() {
        pipeline.buildEnvironment.putAll([BRANCH_NAME: 'main', GIT_COMMIT: 'abc'])
        assertEquals(['latest', 'abc'], harness.run('return kanikoTags()'))
        pipeline.buildEnvironment.putAll([BRANCH_NAME: 'trunk', BRANCH_IS_PRIMARY: 'true'])
        assertEquals(['latest', 'abc'], harness.run('return kanikoTags()'))
        assertEquals(['x', 'x-7'], harness.run("return kanikoTags(branch: 'x')"))
        pipeline.buildEnvironment.TAG_NAME = 'v1.0.0'
        assertEquals('v1.0.0', harness.run('return kanikoTags()[0]'))
        assertTrue(refused("kanikoTags(brunch: 'x')").contains("'branch'"))
    }

    @Test
    void aLayoutIsPushedUnderItsDigest() {
        Object value = harness.run("""def built = kanikoBuild(image: 'r.example/app', tags: ['1'], push: false, output: [type: 'oci', path: 'out'])
            return kanikoPush(built, credentialsId: 'robot')""")
        assertEquals([command: 'push', path: 'out', digest: DIGEST, destinations: ['r.example/app:1'],
            registries: [[url: 'r.example', usernameEnv: 'PYBUILD_LOGIN_0_USERNAME', passwordEnv: 'PYBUILD_LOGIN_0_PASSWORD']]],
            asked(1))
        assertEquals(true, value.pushed)
        harness.run("kanikoPush(path: 'a.tar', image: 'r.example/b', tags: ['2'], retries: 3, insecureRegistries: ['r.example'])")
        assertEquals([command: 'push', path: 'a.tar', image: 'r.example/b', tags: ['2'], insecureRegistries: ['r.example'],
            retries: 3], asked(2))
        assertEquals([COMMAND] * 3, pipeline.shells())
        assertEquals([:], pipeline.files)
    }

    @Test
    void aResultAloneIsPushedWhereItWasMeantFor() {
        harness.run("""kanikoPush(kanikoBuild(destinations: ['r.example/a:1'], push: false, output: [type: 'tar', path: 'x.tar']))""")
        assertEquals([command: 'push', path: 'x.tar', digest: DIGEST, destinations: ['r.example/a:1']], asked(1))
    }

    @Test
    void aPushThatCantBeMeantIsRefused() {
        assertTrue(refused("kanikoPush(image: 'a', tags: ['1'])").contains('nothing to push'))
        assertTrue(refused("kanikoPush(path: 'x')").contains('nowhere to push'))
        assertTrue(refused("kanikoPush(path: 'x', destinations: ['a:1'], tags: ['1'])").contains("needs 'image'"))
        assertTrue(refused("kanikoPush(path: 'x', destination: ['a:1'])").contains("'destinations'"))
    }

    @Test
    void imagesAreNamedTogether() {
        Object value = harness.run("""def a = kanikoBuild(image: 'r.example/app', tags: ['amd64'])
            return kanikoManifest(results: [a], sources: ['r.example/app:arm64'], image: 'r.example/app', tags: ['1'],
                annotations: [a: 'b'], container: 'builder')""")
        assertEquals([command: 'manifest', sources: ["r.example/app@$DIGEST".toString(), 'r.example/app:arm64'],
            image: 'r.example/app', tags: ['1'], annotations: [a: 'b']], asked(1))
        assertEquals(['1'], value.tags)
        assertEquals('builder', pipeline.called('container').last().arguments.name)
        assertTrue(refused("kanikoManifest(image: 'a', tags: ['1'])").contains('no images'))
        assertTrue(refused("kanikoManifest(sources: ['a'])").contains('needs a name'))
        assertTrue(refused("kanikoManifest(sources: ['a'], image: 'b')").contains("needs 'tags'"))
        assertTrue(refused("kanikoManifest(results: [[digest: 'x']], image: 'b', tags: ['1'])").contains('not pushed'))
        assertTrue(refused("kanikoManifest(sourses: ['a'], image: 'b', tags: ['1'])").contains("'sources'"))
    }

    @Test
    void credentialsAreAFolderForTheBodyAndThenGone() {
        Object value = harness.run("""return kanikoCredentials([url: 'r.example', credentialsId: 'robot']) {
            echo env.DOCKER_CONFIG
            echo "\${fileExists(env.DOCKER_CONFIG + '/config.json')} \${env.PYBUILD_LOGIN_0_PASSWORD}"
            return 'value'
        }""")
        assertEquals('value', value)
        assertEquals([command: 'login', configFolder: pipeline.echoed()[0],
            registries: [[url: 'r.example', usernameEnv: 'PYBUILD_LOGIN_0_USERNAME', passwordEnv: 'PYBUILD_LOGIN_0_PASSWORD']]],
            asked())
        assertEquals('true null', pipeline.echoed()[1])
        assertTrue(pipeline.echoed()[0].startsWith("${pipeline.workspace}@tmp/"))
        assertEquals([:], pipeline.files)
        assertEquals('no', refused("kanikoCredentials('file') { error 'no' }"))
        assertEquals('PYBUILD_DOCKER_CONFIG', requests[1].dockerConfig)
        harness.run("kanikoCredentials([[url: 'a', credentialsId: 'x'], [url: 'b', credentialsId: 'y']]) { }")
        assertEquals(['a', 'b'], requests[2].registries*.url)
        assertEquals([:], pipeline.files)
        assertTrue(refused("kanikoCredentials([:]) { }").contains('no credentials'))
        assertTrue(refused("kanikoCredentials([url: 'a']) { }").contains('list of maps'))
        assertTrue(refused("kanikoCredentials([uri: 'a']) { }").contains("'url'"))
    }

    @Test
    void aPodIsMadeForTheBodyAndMadeAgainIfItIsLost() {
        int lost = 1
        pipeline.on('checkout') { arguments, pipeline ->
            lost -= 1
            if (lost >= 0) {
                throw new AgentLost('gone')
            }
            return [:]
        }
        Object value = harness.run("""return kanikoPodTemplate(memory: '3Gi', cloud: 'k', namespace: 'n', podRetention: 'onFailure',
            idleMinutes: 1) { checkout scm; return 5 }""")
        assertEquals(5, value)
        assertEquals(2, pipeline.called('node').size())
        Map template = pipeline.called('podTemplate')[0].arguments
        assertEquals([false, 'k', 'n', 1], [template.showRawYaml, template.cloud, template.namespace, template.idleMinutes])
        assertTrue(template.yaml.contains('memory: "3Gi"') || template.yaml.contains('memory: 3Gi'))
        harness.run('kanikoPodTemplate(retries: 1) { echo "x" }')
        assertEquals('twice, by the retry of the first', 2, pipeline.called('retry').size())
        assertTrue(refused("kanikoPodTemplate(podRetention: 'sometimes') { }").contains('onFailure'))
        assertTrue(refused("kanikoPodTemplate(memroy: '1Gi') { }").contains("'memory'"))
    }

    @Test
    void aPodThatCantBeMeantIsRefused() {
        assertTrue(refused("kanikoPodYaml(isolation: 'restrict')").contains("'restricted'"))
        assertTrue(refused("kanikoPodYaml(isolation: 'restricted', hostUsers: false)").contains('user-namespace'))
        assertTrue(refused("kanikoPodYaml(env: [NPM_TOKEN: 'secret'])").contains('NPM_TOKEN'))
        assertFalse(refused("kanikoPodYaml(env: [NPM_TOKEN: 'hunter2'])").contains('hunter2'))
        assertTrue(refused("kanikoPodYaml(tools: [kaniko: 'x'])").contains('there already'))
        assertTrue(refused("kanikoPodYaml(tools: [go: [memory: '1Gi']])").contains('no image'))
        assertTrue(refused("kanikoPodYaml(tool: [:])").contains("'tools'"))
    }

    @Test
    void onePlatformIsAPipelineOfItsOwn() {
        pipeline.files['/home/jenkins/agent/workspace/hello/pom.xml'] = '<project/>'
        pipeline.buildEnvironment.putAll([BRANCH_NAME: 'main'])
        harness.run("kanikoPipeline(image: 'r.example/app', platforms: ['linux/arm64'], pod: [memory: '3Gi'])")
        assertEquals(['mvn -B -ntp package', COMMAND], pipeline.shells())
        assertEquals(['latest', '0123456789ab'], requests[0].tags)
        assertEquals('linux/arm64', requests[0].platform)
        assertTrue(pipeline.called('podTemplate')[0].arguments.yaml.contains('kubernetes.io/arch: arm64'))
    }

    @Test
    void severalPlatformsAreBuiltSideBySideAndNamedTogether() {
        pipeline.buildEnvironment.putAll([BRANCH_NAME: 'main'])
        harness.run("""kanikoPipeline(image: 'r.example/app', platforms: ['linux/amd64', 'linux/arm64'], credentialsId: 'robot',
            notify: { echo "told \${it.digest}" }, exportEnv: true) { sh 'make' }""")
        assertEquals(['make', 'make'], pipeline.shells() - [COMMAND])
        assertEquals([['build-7-amd64'], ['build-7-arm64'], ['latest', '0123456789ab']], requests*.tags)
        assertEquals('manifest', requests[2].command)
        assertEquals(["r.example/app@$DIGEST".toString()] * 2, requests[2].sources)
        assertEquals(3, harness.mostStrands)
        assertEquals(3, pipeline.called('podTemplate').size())
        assertFalse(pipeline.called('podTemplate')[2].arguments.yaml.contains('maven'))
        assertEquals(["told $DIGEST".toString()], pipeline.echoed())
        assertEquals(DIGEST, pipeline.buildEnvironment.KANIKO_IMAGE_DIGEST)
    }

    @Test
    void ofAChangeNoIndexIsMade() {
        pipeline.buildEnvironment.CHANGE_ID = '3'
        harness.run("kanikoPipeline(image: 'r.example/app', platforms: ['linux/amd64', 'linux/arm64'], scm: false)")
        assertEquals([null, null], requests*.command)
        assertTrue(pipeline.called('checkout').empty)
        assertTrue(refused("kanikoPipeline(image: 'a', platforms: 'linux/amd64')").contains('has to be a list'))
        assertTrue(refused("kanikoPipeline(imag: 'a', scm: false)").contains("'image'"))
        assertTrue(refused("kanikoPipeline(image: 'a', scm: false, lint: true)").contains('not there yet'))
    }
}
