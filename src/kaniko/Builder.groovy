package kaniko

import com.cloudbees.groovy.cps.NonCPS
import groovy.json.JsonOutput
import groovy.json.JsonSlurper

/**
 * Has a request carried out in the builder's container: one JSON file in, one constant command, one JSON
 * file out. Credentials are bound to variables for that command alone, and only their names are in the
 * request. `steps` is the script that the step runs in.
 */
class Builder implements Serializable {
    static final String COMMAND = '"${PYBUILD_BUILDER:-pybuild}" request "$PYBUILD_REQUEST"'

    private final Object steps
    private final String step
    private final Map args

    Builder(Object steps, String step, Map args) {
        this.steps = steps
        this.step = step
        this.args = args
    }

    /** A folder of this call alone: below @tmp, which no context includes. The caller removes it. */
    String newFolder() {
        return "${steps.pwd(tmp: true)}/pybuild-${UUID.randomUUID()}".toString()
    }

    /** The result; a failure ends the build with what the builder said. */
    Map run(String folder, String label, Map request) {
        Map credentials = Credentials.of(args, request.image ? request.image.toString() : '')
        Map whole = [schema: 1] + request + (Map) credentials.request
        String answer = "${folder}/result.json".toString()
        List variables = variablesOf(folder)
        int status = -1
        String text = ''
        inContainer {
            steps.writeFile(file: "${folder}/request.json".toString(), text: JsonOutput.toJson(whole), encoding: 'UTF-8')
            bound((List) credentials.bindings) {
                steps.withEnv(variables) {
                    status = steps.sh(script: COMMAND, returnStatus: true, label: label)
                }
            }
            if (steps.fileExists(answer)) {
                text = steps.readFile(file: answer, encoding: 'UTF-8')
            }
        }
        Map result = parsed(text)
        String failure = failureOf(status, result)
        if (failure) {
            steps.error("${step}: ${failure}".toString())
        }
        return result
    }

    /** A request that needs its folder for itself only, within the time that the step has. */
    Map runAlone(String label, Map request) {
        String folder = newFolder()
        Map result = [:]
        try {
            steps.timeout(Summary.time(args.timeout)) {
                result = run(folder, label, request)
            }
        } finally {
            steps.dir(folder) { steps.deleteDir() }
        }
        return result
    }

    void inContainer(Closure body) {
        String name = args.container == null ? 'kaniko' : args.container.toString()
        if (!name) {
            body.call()
        } else if (args.shell) {
            steps.container([name: name, shell: args.shell.toString()], body)
        } else {
            steps.container([name: name], body)
        }
    }

    private void bound(List bindings, Closure body) {
        if (bindings) {
            steps.withCredentials(bindings, body)
        } else {
            body.call()
        }
    }

    @NonCPS
    private List variablesOf(String folder) {
        List variables = ["PYBUILD_REQUEST=${folder}/request.json".toString()]
        Map named = [builder: 'PYBUILD_BUILDER', dockerConfigDir: 'DOCKER_CONFIG', caBundle: 'SSL_CERT_FILE']
        for (entry in named.entrySet()) {
            if (args[entry.key]) {
                variables.add("${entry.value}=${args[entry.key]}".toString())
            }
        }
        return variables
    }

    /** What went wrong, for the build's log; empty after a success. */
    @NonCPS
    private String failureOf(int status, Map result) {
        Map failed = result.error
        if (failed) {
            String place = failed.line ? "${failed.file}:${failed.line}: ${failed.text}: " : ''
            String hint = failed.hint ? " (${failed.hint})" : ''
            return "${place}${failed.message} [${failed.code}]${hint}"
        }
        if (status == 0) {
            return result ? '' : 'the builder left no result'
        }
        Map reasons = [
            (127): "the container has no 'pybuild': is it the builder's image?",
            (137): 'the builder was killed, most often for its memory limit',
            (143): 'the builder was stopped',
        ]
        return "${reasons[status] ?: 'the builder left no result'}; status ${status}, see the log above"
    }

    @NonCPS
    private static Map parsed(String text) {
        return text ? (Map) Arguments.plain(new JsonSlurper().parseText(text)) : [:]
    }
}
