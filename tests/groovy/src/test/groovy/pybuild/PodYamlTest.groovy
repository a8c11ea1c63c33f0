package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertTrue

import org.junit.Test

/** Each file of pod-templates/jenkins is what the call in its first lines gives. */
class PodYamlTest {
    private static final File FOLDER = new File(CpsHarness.REPOSITORY, 'pod-templates/jenkins')

    @Test
    void everyFileIsWhatItsCallGives() {
        List files = FOLDER.listFiles().findAll { it.name.endsWith('.yaml') }.sort()
        assertTrue("${files.size()}", files.size() >= 9)
        files.each { File file ->
            String text = file.getText('UTF-8')
            String call = (text =~ /(?m)^# (kanikoPodYaml\(.*\))$/)[0][1]
            String body = text.substring(text.indexOf('apiVersion:'))
            Object given = new CpsHarness().run("return $call")
            if (System.getenv('UPDATE_TEMPLATES')) {
                file.setText(text.substring(0, text.indexOf('apiVersion:')) + given, 'UTF-8')
            } else {
                assertEquals(file.name, body, given)
            }
        }
    }

    @Test
    void theImageIsTheControllersWhereItNamesOne() {
        CpsHarness harness = new CpsHarness()
        harness.pipeline.buildEnvironment.KANIKO_BUILDER_IMAGE = 'r.example:5000/builder'
        ["kanikoPodYaml()": 'r.example:5000/builder:debug', "kanikoPodYaml(isolation: 'openshift')": 'r.example:5000/builder:rootless',
            "kanikoPodYaml(arch: 'arm64')": 'r.example:5000/builder:debug-arm64', "kanikoPodYaml(image: 'x/y@sha256:1')": 'x/y@sha256:1',
            "kanikoPodYaml(image: 'x/y:3', arch: 'arm64')": 'x/y:3'].each { call, image ->
            String yaml = harness.run("return $call")
            assertTrue("$call\n$yaml", yaml.contains("      image: $image\n") || yaml.contains("      image: \"$image\"\n"))
        }
    }

    @Test
    void whatIsGivenArrives() {
        String yaml = new CpsHarness().run('''return kanikoPodYaml(labels: [team: 'a b'], annotations: [n: 'true'], env: [A: 1,
            NPM_TOKEN: [secret: 'npm', key: 'token']], nodeSelector: [pool: 'build'], tolerations: [[key: 'k', operator: 'Exists']],
            serviceAccountName: 'builder', imagePullSecrets: ['pull'], activeDeadlineSeconds: 60, runtimeClassName: 'rc',
            jnlpImage: 'agent:1', resources: [maven: [memory: '512Mi'], jnlp: [cpu: '50m']], secret: false,
            tools: [maven: 'maven:3', go: [image: 'golang:1', command: ['sleep', '7d'], cpu: 2]], container: 'builder', cpu: '1',
            memory: '8Gi', ephemeralStorage: '9Gi', workSize: '30Gi', gitSecret: 'git', imagePullPolicy: 'Always')''')
        ['team: "a b"', 'n: "true"', 'name: A\n          value: "1"', 'key: token', 'pool: build', 'operator: Exists',
            'serviceAccountName: builder', 'automountServiceAccountToken: true', 'name: pull', 'activeDeadlineSeconds: 60',
            'runtimeClassName: rc', 'image: agent:1', 'memory: 512Mi', 'cpu: 50m', 'command: [sleep, "7d"]', 'name: builder',
            'ephemeral-storage: "9Gi"', 'sizeLimit: "30Gi"', 'name: GIT_TOKEN', 'imagePullPolicy: Always', 'cpu: 2'].each {
            assertTrue("$it\n$yaml", yaml.contains(it) || yaml.replace('"', '').contains(it.replace('"', '')))
        }
        assertTrue(!yaml.contains('dockercred'))
    }
}
