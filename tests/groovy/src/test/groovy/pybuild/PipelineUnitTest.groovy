package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertTrue

import com.lesfurets.jenkins.unit.cps.BasePipelineTestCPS
import groovy.json.JsonOutput
import org.junit.Before
import org.junit.Test

/** The same step under the usual tool, JenkinsPipelineUnit: a second opinion on the harness. */
class PipelineUnitTest extends BasePipelineTestCPS {
    private final Map<String, String> files = [:]

    @Override
    @Before
    void setUp() throws Exception {
        scriptRoots = ['vars', 'src'].collect { new File(CpsHarness.REPOSITORY, it).path }
        scriptExtension = 'groovy'
        super.setUp()
        helper.registerAllowedMethod('pwd', [Map]) { '/ws@tmp' }
        helper.registerAllowedMethod('writeFile', [Map]) { Map given -> files[given.file.toString()] = given.text }
        helper.registerAllowedMethod('readFile', [Map]) { Map given -> files[given.file.toString()] }
        helper.registerAllowedMethod('fileExists', [String]) { String file -> files.containsKey(file) }
        helper.registerAllowedMethod('container', [Map, Closure]) { Map given, Closure body -> body() }
        helper.registerAllowedMethod('withEnv', [List, Closure]) { List given, Closure body -> body() }
        helper.registerAllowedMethod('dir', [String, Closure]) { String path, Closure body -> body() }
        helper.registerAllowedMethod('timeout', [Map, Closure]) { Map given, Closure body -> body() }
        helper.registerAllowedMethod('archiveArtifacts', [Map]) { null }
        binding.setVariable('env', [BUILD_NUMBER: '7'])
        binding.setVariable('currentBuild', [:])
        helper.registerAllowedMethod('deleteDir', []) { null }
        helper.registerAllowedMethod('error', [String]) { String message -> throw new StepFailed(message) }
        helper.registerAllowedMethod('sh', [Map]) { Map given ->
            String request = files.keySet().find { it.endsWith('/request.json') }
            files[request.replace('request.json', 'result.json')] = JsonOutput.toJson([digest: 'sha256:0', image: 'r.example/app', tags: ['1']])
            return 0
        }
    }

    @Test
    void buildsAnImage() {
        binding.setVariable('kanikoTags', loadScript('kanikoTags.groovy'))
        Script step = loadScript('kanikoBuild.groovy')
        Object result = step.call(image: 'r.example/app', tags: ['1'])
        assertEquals('sha256:0', result.digest)
        assertTrue(files.values().any { it.startsWith('{"schema":1,"image":"r.example/app","tags":["1"]') })
    }
}
