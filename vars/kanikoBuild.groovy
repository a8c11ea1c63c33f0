import com.cloudbees.groovy.cps.NonCPS
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import groovy.transform.Field

// Builds an image in the builder's container and pushes it. What the arguments mean is decided by
// `pybuild request`, which gets them as a file: nothing of the user's is ever part of a command line.
// The vars run in the sandbox, and at every step the build may be interrupted by a restart of the
// controller: what lives across a step is text, numbers, lists and maps.

// For the request, in the names that docs/jenkins.md gives them.
@Field final List REQUESTED = [
    'image', 'tags', 'destinations', 'context', 'dockerfile', 'target', 'buildArgs', 'labels',
    'secrets', 'insecureRegistries', 'registryMirrors', 'cache', 'push', 'output', 'verbosity', 'dryRun',
]
// For the step itself.
@Field final Map HERE = [container: 'kaniko', shell: '']

Map call(Map args = [:], String image) {
    if (args.containsKey('image')) {
        error('kanikoBuild: the image is given twice')
    }
    return call([image: image] + args)
}

Map call(Map args = [:]) {
    String problem = problemOf(args)
    if (problem) {
        error("kanikoBuild: ${problem}")
    }
    Map here = HERE + plain(args).subMap(HERE.keySet().toList())
    Map request = requestOf(args)
    if (!here.container) {
        return carryOut(request)
    }
    Map entered = here.shell ? [name: here.container, shell: here.shell] : [name: here.container]
    Map result = [:]
    container(entered) { result = carryOut(request) }
    return result
}

private Map carryOut(Map request) {
    // Below @tmp, which no context includes, and of this call alone, for steps in parallel.
    String folder = "${pwd(tmp: true)}/pybuild-${UUID.randomUUID()}"
    String answer = "${folder}/result.json"
    int status = -1
    String text = ''
    try {
        writeFile(file: "${folder}/request.json", text: JsonOutput.toJson(request), encoding: 'UTF-8')
        withEnv(["PYBUILD_REQUEST=${folder}/request.json".toString()]) {
            status = sh(script: 'pybuild request "$PYBUILD_REQUEST"', returnStatus: true, label: 'Build the image')
        }
        if (fileExists(answer)) {
            text = readFile(file: answer, encoding: 'UTF-8')
        }
    } finally {
        dir(folder) { deleteDir() }
    }
    Map result = parsed(text)
    String failure = failureOf(status, result)
    if (failure) {
        error("kanikoBuild: ${failure}")
    }
    return result
}

@NonCPS
private Map requestOf(Map args) {
    Map request = [schema: 1]
    Map given = plain(args)
    for (String name in REQUESTED) {
        if (given.containsKey(name)) {
            request[name] = given[name]
        }
    }
    return request
}

/** What is wrong with the arguments, in a sentence; empty if nothing is. */
@NonCPS
private String problemOf(Map args) {
    List known = REQUESTED + HERE.keySet().toList()
    for (entry in args.entrySet()) {
        String name = entry.key.toString()
        if (!known.contains(name)) {
            return "unknown argument '${name}'; did you mean '${nearest(name, known)}'?"
        }
        if (!isPlain(entry.value)) {
            return "'${name}' has to be made of text, numbers, booleans, lists and maps"
        }
    }
    if (!args.image && !args.destinations && args.push != false) {
        return "there is nowhere to push to: give 'image' and 'tags', or 'destinations', or push: false"
    }
    return ''
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
private Map parsed(String text) {
    return text ? plain(new JsonSlurper().parseText(text)) : [:]
}

@NonCPS
private boolean isPlain(Object value) {
    if (value instanceof Map) {
        for (entry in ((Map) value).entrySet()) {
            if (!isPlain(entry.value)) {
                return false
            }
        }
        return true
    }
    if (value instanceof Collection) {
        for (item in (Collection) value) {
            if (!isPlain(item)) {
                return false
            }
        }
        return true
    }
    return value == null || value instanceof CharSequence || value instanceof Number || value instanceof Boolean
}

/** The same value of plain classes only: a GString is no text to JSON's keys, a lazy map no map to a restart. */
@NonCPS
private Object plain(Object value) {
    if (value instanceof Map) {
        Map copy = [:]
        for (entry in ((Map) value).entrySet()) {
            copy[entry.key.toString()] = plain(entry.value)
        }
        return copy
    }
    if (value instanceof Collection) {
        List copy = []
        for (item in (Collection) value) {
            copy.add(plain(item))
        }
        return copy
    }
    return value instanceof CharSequence ? value.toString() : value
}

@NonCPS
private String nearest(String name, List known) {
    String best = known[0]
    int least = Integer.MAX_VALUE
    for (String candidate in known) {
        int distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
        if (distance < least) {
            least = distance
            best = candidate
        }
    }
    return best
}

@NonCPS
private int editDistance(String from, String to) {
    List previous = [0]
    for (int j = 1; j <= to.length(); j++) {
        previous.add(j)
    }
    for (int i = 1; i <= from.length(); i++) {
        List row = [i]
        for (int j = 1; j <= to.length(); j++) {
            int replaced = previous[j - 1] + (from[i - 1] == to[j - 1] ? 0 : 1)
            row.add(Math.min(replaced, Math.min(previous[j] + 1, row[j - 1] + 1)))
        }
        previous = row
    }
    return previous[to.length()]
}
