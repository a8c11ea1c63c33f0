package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertFalse
import static org.junit.Assert.assertTrue
import static org.junit.Assert.fail

import org.junit.Test

class KanikoBuildTest extends StepTest {
    private static final String IMAGE = "image: 'r.example/app', tags: ['1']"

    @Test
    void oneRequestOneConstantCommandOneResult() {
        Object value = harness.run("return kanikoBuild($IMAGE)")
        assertEquals([image: 'r.example/app', tags: ['1']], asked())
        assertEquals(1, requests[0].schema)
        assertEquals([COMMAND], pipeline.called('sh')*.arguments*.script)
        assertEquals("r.example/app@$DIGEST".toString(), value.imageRef)
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
            image: 'r.example/app', tags: ['1', '2'], destinations: ['other/app:3'],
            context: 'sub dir', dockerfile: 'a/Dockerfile', target: 'last',
            buildArgs: [A: '1', B: null, C: 2, D: true], labels: [team: 'x'],
            secrets: [npm: [file: '/s/npm'], key: [env: 'KEY']], insecureRegistries: ['r.example'],
            registryMirrors: ['m.example'], cache: [repo: 'r.example/cache', dir: '/cache'], push: true,
            output: [type: 'tar', path: 'image.tar'], verbosity: 'debug', dryRun: true,
        ], asked())
    }

    @Test
    void theShortFormTakesTheImageFirst() {
        harness.run("kanikoBuild 'r.example/app', tags: ['1'], cache: false")
        assertEquals([image: 'r.example/app', tags: ['1'], cache: false], asked())
    }

    @Test
    void withoutPushNoDestinationIsNeeded() {
        harness.run("kanikoBuild push: false, output: [type: 'oci', path: 'out']")
        assertEquals([push: false, output: [type: 'oci', path: 'out']], asked())
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
        answers = [[schema: 1, error: [code: 'run-failed', message: 'the command ended with 7', hint: 'look above',
            file: 'Dockerfile', line: 3, text: 'RUN false', exitStatus: 7]]]
        assertEquals('kanikoBuild: Dockerfile:3: RUN false: the command ended with 7 [run-failed] (look above)',
            refused("kanikoBuild($IMAGE)"))
    }

    @Test
    void aFailureWithoutAPlaceNamesNone() {
        status = 1
        answers = [[schema: 1, error: [code: 'unauthorized', message: 'no', hint: '', file: '', line: 0, text: '']]]
        assertEquals('kanikoBuild: no [unauthorized]', refused("kanikoBuild($IMAGE)"))
    }

    @Test
    void aBuilderThatDiedIsExplained() {
        answers = [null]
        [127: "no 'pybuild'", 137: 'memory limit', 143: 'stopped', 2: 'left no result'].each { code, words ->
            status = code
            String message = refused("kanikoBuild($IMAGE)")
            assertTrue(message, message.contains(words))
            assertTrue(message, message.contains("status $code"))
        }
    }

    @Test
    void aSuccessWithoutAResultIsNone() {
        answers = [null]
        assertTrue(refused("kanikoBuild($IMAGE)").contains('left no result'))
    }

    @Test
    void nothingIsLeftBehindAlsoAfterAFailure() {
        harness.run("kanikoBuild($IMAGE)")
        status = 1
        answers = [[schema: 1, error: [code: 'x', message: 'y']]]
        refused("kanikoBuild($IMAGE)")
        assertEquals([:], pipeline.files)
    }

    @Test
    void theRequestLiesOutsideTheWorkspaceAndBelongsToOneCall() {
        harness.run("kanikoBuild($IMAGE); kanikoBuild($IMAGE)")
        List<String> written = pipeline.called('writeFile')*.arguments*.file.findAll { it.endsWith('request.json') }
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
        answers = [[schema: 1, imageRef: 'a@b', tags: ['1'], nested: [a: [b: 1]]]]
        Object value = harness.run("def r = kanikoBuild($IMAGE); echo r.imageRef; echo r.tags[0]; return r")
        assertEquals(LinkedHashMap, value.getClass())
        assertEquals(LinkedHashMap, value.nested.a.getClass())
        assertEquals(['a@b', '1'], pipeline.echoed())
    }

    @Test
    void everyOtherArgumentArrives() {
        harness.run("""kanikoBuild($IMAGE, mirrors: ['m.example/app'], subPath: 'a', platform: 'linux/amd64',
            buildArgsFromEnv: ['HTTP_PROXY'], annotations: [a: 'b'], registryMap: ['docker.io': 'm.example'],
            cache: [repo: 'r.example/c', ttl: '24h', copyLayers: false, readOnlyOnPr: true], reproducible: true,
            sourceDateEpoch: 'commit', compression: 'zstd', compressionLevel: 3, format: 'oci', sbom: 'spdx',
            provenance: true, retries: 3, extraArgs: ['--single-snapshot'], ociLabels: [title: 'Hello'])""")
        assertEquals([
            image: 'r.example/app', tags: ['1'], mirrors: ['m.example/app'], subPath: 'a', platform: 'linux/amd64',
            buildArgsFromEnv: ['HTTP_PROXY'], annotations: [a: 'b'], registryMap: ['docker.io': 'm.example'],
            cache: [repo: 'r.example/c', ttl: '24h', copyLayers: false], reproducible: true, sourceDateEpoch: 'commit',
            compression: 'zstd', compressionLevel: 3, format: 'oci', sbom: 'spdx', provenance: true, retries: 3,
            extraArgs: ['--single-snapshot'],
        ], asked())
        assertEquals([version: '1', title: 'Hello'], requests[0].ociLabels)
    }

    @Test
    void whatJenkinsKnowsBecomesLabels() {
        pipeline.buildEnvironment.putAll([BRANCH_NAME: 'main', GIT_COMMIT: 'abc', GIT_URL: 'https://u:p@git.example/a.git'])
        harness.run("kanikoBuild($IMAGE); kanikoBuild($IMAGE, context: 'git://x/y'); kanikoBuild($IMAGE, ociLabels: false)")
        assertEquals([source: 'https://u:p@git.example/a.git', revision: 'abc', url: 'https://git.example/a',
            'ref.name': 'main', version: '1'], requests[0].ociLabels)
        assertEquals(['ref.name', 'version'] as Set, requests[1].ociLabels.keySet())
        assertEquals(false, requests[2].ociLabels)
        assertEquals('https://jenkins.example/job/hello/7/', requests[0].invocation)
    }

    @Test
    void tagsAreChosenWhereNoneAreGiven() {
        pipeline.buildEnvironment.putAll([BRANCH_NAME: 'main', GIT_COMMIT: '0123456789abcdef'])
        harness.run("kanikoBuild(image: 'r.example/app'); kanikoBuild(image: 'r.example/app', tags: 'auto', commit: 'f' * 40)")
        assertEquals(['latest', '0123456789ab'], requests[0].tags)
        assertEquals(['latest', 'f' * 12], requests[1].tags)
    }

    @Test
    void aChangeIsBuiltAndNotPushed() {
        pipeline.buildEnvironment.putAll([BRANCH_NAME: 'PR-5', CHANGE_ID: '5'])
        Object value = harness.run("kanikoBuild(image: 'r.example/app', cache: true)")
        assertEquals([image: 'r.example/app', tags: ['pr-5'], push: false, cache: [readOnly: true]], asked())
        assertEquals(false, value.pushed)
        harness.run("kanikoBuild(image: 'r.example/app', cache: [repo: 'c', readOnlyOnPr: false], publish: 'always')")
        assertEquals([image: 'r.example/app', tags: ['pr-5'], cache: [repo: 'c']], asked(1))
    }

    @Test
    void whetherToPushCanBeSaidInFourWays() {
        harness.run("""kanikoBuild($IMAGE, publish: 'never'); kanikoBuild($IMAGE, publish: { env.X == 'y' })
            kanikoBuild($IMAGE, publish: 'auto'); kanikoBuild($IMAGE, push: false); kanikoBuild($IMAGE, push: true)""")
        assertEquals([false, false, null, false, true], requests*.push)
    }

    @Test
    void testsRunBetweenBuildAndPush() {
        Object value = harness.run("""
            def seen = ''
            def result = kanikoBuild($IMAGE, credentialsId: 'ci') { r ->
                sh "scan \${r.output.path}"
                seen = r.digest
            }
            echo seen
            return result""")
        assertEquals([DIGEST], pipeline.echoed())
        assertEquals([false, 'oci'], [requests[0].push, requests[0].output.type])
        assertEquals(['push', DIGEST, requests[0].output.path, 'r.example/app', ['1']],
            ['command', 'digest', 'path', 'image', 'tags'].collect { requests[1][it] })
        assertEquals(3, pipeline.shells().size())
        assertTrue(pipeline.shells()[1].startsWith('scan /home/jenkins'))
        assertEquals([true, 42, "r.example/app@$DIGEST".toString()], [value.pushed, value.size, value.imageRef])
        assertTrue(requests*.registries.every { it[0].url == 'r.example' })
    }

    @Test
    void aFailingTestStopsThePush() {
        assertEquals('no', refused("kanikoBuild($IMAGE) { error 'no' }"))
        assertEquals(1, requests.size())
        assertEquals([:], pipeline.files)
    }

    @Test
    void ofAChangeTheTestsRunAndNothingIsPushed() {
        pipeline.buildEnvironment.CHANGE_ID = '5'
        harness.run("kanikoBuild(image: 'r.example/app', output: [type: 'tar', path: 'a.tar']) { r -> echo r.output.path }")
        assertEquals(['a.tar'], pipeline.echoed())
        assertEquals(1, requests.size())
    }

    @Test
    void closuresRunInTheirOrder() {
        harness.run("""kanikoBuild($IMAGE, preBuild: { echo 'first' }, sign: { echo "sign \${it.tags[0]}" },
            notify: { echo "told \${it.digest}" }) { echo 'test' }""")
        assertEquals(['first', 'test', 'sign 1', "told $DIGEST".toString()], pipeline.echoed())
    }

    @Test
    void aFailureIsToldToo() {
        answers = [[schema: 1, error: [code: 'x', message: 'broken']]]
        refused("kanikoBuild($IMAGE, notify: { echo it.error }, sign: { echo 'never' })")
        assertEquals(['kanikoBuild: broken [x]'], pipeline.echoed())
    }

    @Test
    void severalImagesInheritTheRest() {
        Object value = harness.run("""kanikoBuild(tags: ['1'], cache: true, unstash: ['jars'], images: [
            [image: 'r.example/a', context: 'a'], [image: 'r.example/b', tags: ['2'], cache: false]])""")
        assertEquals([[image: 'r.example/a', tags: ['1'], cache: true, context: 'a'],
            [image: 'r.example/b', tags: ['2'], cache: false]], [asked(0), asked(1)])
        assertEquals(['r.example/a', 'r.example/b'], value.images*.image)
        assertEquals(true, value.pushed)
        assertEquals(['jars'], pipeline.called('unstash')*.arguments*.name)
        assertEquals(1, harness.mostStrands)
    }

    @Test
    void severalImagesSideBySide() {
        Object value = harness.run("""kanikoBuild(parallel: true, tags: ['1'], images: [
            [image: 'r.example/a'], [image: 'r.example/b'], [image: 'other.example/a']])""")
        assertEquals(['r.example/a', 'r.example/b', 'other.example/a'], value.images*.image)
        assertEquals(4, harness.mostStrands)
        assertEquals(['a', 'b', 'a-2', 'failFast'], pipeline.called('parallel')[0].arguments.keySet().toList())
        assertEquals(['kaniko/a-2/result.json', 'kaniko/a/result.json', 'kaniko/b/result.json'],
            pipeline.archived.keySet().sort())
        assertEquals(3, pipeline.description.readLines().size())
    }

    @Test
    void oneOfSeveralThatFailsStopsTheOthers() {
        pipeline.on('sh') { arguments, pipeline ->
            if (pipeline.files[pipeline.environment().PYBUILD_REQUEST].contains('/bad')) {
                return 137
            }
            throw new AssertionError('the other went on')
        }
        String message = refused("""kanikoBuild(parallel: true, tags: ['1'], images: [
            [image: 'r.example/bad'], [image: 'r.example/slow', preBuild: { 50.times { echo 'waits' } }]])""")
        assertTrue(message, message.contains('memory limit'))
        assertTrue(pipeline.echoed().size() < 50)
        assertEquals([:], pipeline.files)
    }

    @Test
    void credentialsAreBoundAndOnlyTheirNamesAreTold() {
        pipeline.on('container') { arguments, pipeline -> null }
        harness.run("""kanikoBuild($IMAGE, credentialsId: 'ci', registries: [[url: 'other.example', credentialsId: 'o']],
            dockerConfigCredentialsId: 'config', gitCredentialsId: 'git', caBundle: '/etc/ca.pem', dockerConfigDir: '/docker',
            builder: '/kaniko/pybuild', secrets: [[id: 'npm', credentialsId: 'token'], [id: 'key', credentialsId: 'k', type: 'file'],
                [id: 'own', file: '/s/own'], [id: 'mine', env: 'MINE']])""")
        assertEquals([
            [url: 'r.example', usernameEnv: 'PYBUILD_LOGIN_0_USERNAME', passwordEnv: 'PYBUILD_LOGIN_0_PASSWORD'],
            [url: 'other.example', usernameEnv: 'PYBUILD_LOGIN_1_USERNAME', passwordEnv: 'PYBUILD_LOGIN_1_PASSWORD'],
        ], requests[0].registries)
        assertEquals('PYBUILD_DOCKER_CONFIG', requests[0].dockerConfig)
        assertEquals([npm: [env: 'PYBUILD_SECRET_0'], key: [fileEnv: 'PYBUILD_SECRET_1'], own: [file: '/s/own'],
            mine: [env: 'MINE']], requests[0].secrets)
        assertEquals(['ci', 'o', 'config', 'git', 'token', 'k'],
            pipeline.called('withCredentials')[0].arguments.bindings*.credentialsId)
        assertEquals(['PYBUILD_BUILDER=/kaniko/pybuild', 'DOCKER_CONFIG=/docker', 'SSL_CERT_FILE=/etc/ca.pem'],
            pipeline.called('withEnv')[0].arguments.overrides[1..3])
        assertEquals([COMMAND], pipeline.shells())
    }

    @Test
    void credentialsThatCantBeMeantAreRefused() {
        assertTrue(refused("kanikoBuild(destinations: ['a:1'], credentialsId: 'x')").contains("take 'registries'"))
        assertTrue(refused("kanikoBuild($IMAGE, registries: ['r.example'])").contains('list of maps'))
        assertTrue(refused("kanikoBuild($IMAGE, registries: [[url: 'r', credentialsId: 'c', pasword: 'x']])").contains("'pasword'"))
        assertTrue(refused("kanikoBuild($IMAGE, secrets: [[id: 'npm']])").contains('list of maps'))
        assertTrue(refused("kanikoBuild($IMAGE, secrets: [[id: 'npm', credentialsId: 'x', type: 'ssh']])").contains("'file'"))
    }

    @Test
    void reportsAreArchivedAndLinked() {
        harness.run("kanikoBuild($IMAGE, sbom: 'spdx', stashResult: 'image', exportEnv: true)")
        assertEquals(['kaniko/app/result.json', 'kaniko/app/sbom.spdx.json'], pipeline.archived.keySet().sort())
        assertEquals([name: 'image', includes: 'kaniko/**'], pipeline.called('stash')[0].arguments)
        String page = 'https://jenkins.example/job/hello/7/artifact/kaniko/app/'
        assertEquals("r.example/app:1 sha256:000000000000 sbom: ${page}sbom.spdx.json result: ${page}result.json".toString(),
            pipeline.description)
        assertEquals("r.example/app@$DIGEST".toString(), pipeline.buildEnvironment.KANIKO_IMAGE_REF)
        assertEquals(DIGEST, pipeline.buildEnvironment.KANIKO_IMAGE_DIGEST)
    }

    @Test
    void theDescriptionIsEscapedOrLeftAlone() {
        pipeline.description = 'before'
        pipeline.buildEnvironment.BUILD_URL = 'https://j/"x"/'
        harness.run("kanikoBuild($IMAGE, description: 'html', name: 'a')")
        assertEquals('before\nr.example/app:1 sha256:000000000000 ' +
            '<a href="https://j/&quot;x&quot;/artifact/kaniko/a/result.json">result</a>', pipeline.description)
        pipeline.description = null
        harness.run("kanikoBuild($IMAGE, description: false, archive: false)")
        assertEquals(null, pipeline.description)
        assertEquals(['kaniko/a/result.json'], pipeline.archived.keySet().toList())
    }

    @Test
    void checksArePublishedWhereAPluginCan() {
        harness.run("kanikoBuild($IMAGE, checks: true)")
        assertTrue(pipeline.echoed()[0].contains('no plugin'))
        List published = []
        pipeline.on('publishChecks') { arguments, pipeline -> published << arguments; null }
        harness.run("kanikoBuild($IMAGE, checks: true)")
        assertEquals(['image app', 'SUCCESS'], [published[0].name, published[0].conclusion])
    }

    @Test
    void theTimeIsLimited() {
        harness.run("kanikoBuild($IMAGE); kanikoBuild($IMAGE, timeout: 5); kanikoBuild($IMAGE, timeout: [time: 2, unit: 'HOURS'])")
        assertEquals([[time: 60, unit: 'MINUTES'], [time: 5, unit: 'MINUTES'], [time: 2, unit: 'HOURS']],
            pipeline.called('timeout')*.arguments)
    }

    @Test
    void mistakesAreRefusedByName() {
        assertTrue(refused("kanikoBuild($IMAGE, lint: true)").contains("'lint' is not there yet"))
        assertTrue(refused("kanikoBuild($IMAGE, publish: 'sometimes')").contains("'always'"))
        assertTrue(refused("kanikoBuild($IMAGE, publish: 'auto', push: true)").contains('give one of them'))
        assertTrue(refused("kanikoBuild($IMAGE, sign: 'cosign')").contains("'sign' has to be a closure"))
        assertTrue(refused("kanikoBuild($IMAGE, extraArgs: '--a --b')").contains('has to be a list'))
        assertTrue(refused("kanikoBuild($IMAGE, parallel: 'true')").contains('without quotes'))
        assertTrue(refused("kanikoBuild(images: [[imag: 'x']])").contains("'image'"))
        assertTrue(pipeline.called('sh').empty)
    }

    @Test
    void aDryRunHasNoTests() {
        harness.run("kanikoBuild($IMAGE, dryRun: true) { error 'not this' }")
        assertEquals(1, requests.size())
        assertEquals([:], pipeline.archived)
    }
}
