import groovy.json.JsonOutput
import groovy.transform.Field
import kaniko.Arguments
import kaniko.Builder
import kaniko.Credentials
import kaniko.Summary
import kaniko.Tags

// Builds an image in the builder's container and pushes it. What the arguments mean is decided by
// `pybuild request`, which gets them as a file: nothing of the user's is ever part of a command line.
// The vars run in the sandbox, and at every step the build may be interrupted by a restart of the
// controller: what lives across a step is text, numbers, lists and maps.

// For the request, under these names.
@Field final List REQUESTED = [
    'image', 'tags', 'destinations', 'mirrors', 'context', 'subPath', 'dockerfile', 'target', 'platform',
    'buildArgs', 'buildArgsFromEnv', 'labels', 'annotations', 'secrets', 'insecureRegistries', 'registryMirrors',
    'registryMap', 'cache', 'reproducible', 'sourceDateEpoch', 'compression', 'compressionLevel', 'format',
    'push', 'output', 'sbom', 'provenance', 'retries', 'extraArgs', 'verbosity', 'dryRun', 'ociLabels',
]
// For the step itself.
@Field final List HERE = [
    'images', 'parallel', 'failFast', 'name', 'publish', 'primaryBranches', 'commit', 'credentialsId', 'registries',
    'dockerConfigCredentialsId', 'dockerConfigDir', 'gitCredentialsId', 'caBundle', 'preBuild', 'sign', 'notify',
    'checks', 'archive', 'description', 'exportEnv', 'unstash', 'stashResult', 'timeout', 'container', 'shell',
    'builder',
]
@Field final List OF_ALL = ['images', 'parallel', 'failFast', 'unstash']

Map call(Map args = [:], String image, Closure body = null) {
    if (image == null) {
        return start(args, body) // called with a closure that is null
    }
    if (args.containsKey('image')) {
        error('kanikoBuild: the image is given twice')
    }
    return start([image: image] + args, body)
}

Map call(String image, Closure body) {
    return start([image: image], body)
}

/** `body` runs between the build and the push, with the result so far; what it throws stops the push. */
Map call(Map args = [:], Closure body = null) {
    return start(args, body)
}

private Map start(Map args, Closure body) {
    String general = Arguments.problem(args, REQUESTED + HERE)
    if (general) {
        error("kanikoBuild: ${general}")
    }
    List wanted = Summary.images(args, OF_ALL)
    for (int i = 0; i < wanted.size(); i++) {
        String problem = problemOf((Map) wanted[i])
        if (problem) {
            error("kanikoBuild: ${problem}")
        }
    }
    List stashes = Arguments.texts(args.unstash)
    for (int i = 0; i < stashes.size(); i++) {
        unstash(stashes[i])
    }
    if (!args.images) {
        return build((Map) wanted[0], body)
    }
    return args.parallel ? sideBySide(wanted, args, body) : oneByOne(wanted, body)
}

private Map oneByOne(List wanted, Closure body) {
    List results = []
    for (int i = 0; i < wanted.size(); i++) {
        results.add(build((Map) wanted[i], body))
    }
    return Summary.together(results)
}

private Map sideBySide(List wanted, Map args, Closure body) {
    Map results = [:]
    Map branches = [:]
    for (int i = 0; i < wanted.size(); i++) {
        Map one = (Map) wanted[i]
        String name = one.name
        branches[name] = { results[name] = build(one, body) }
    }
    parallel(branches + [failFast: args.failFast != false])
    List ordered = []
    for (int i = 0; i < wanted.size(); i++) {
        ordered.add(results[wanted[i].name])
    }
    return Summary.together(ordered)
}

private Map build(Map args, Closure body) {
    Map result = [:]
    try {
        timeout(Summary.time(args.timeout)) {
            if (args.preBuild) {
                ((Closure) args.preBuild).call()
            }
            result = carriedOut(args, requestOf(args), body)
            if (args.sign && result.pushed) {
                ((Closure) args.sign).call(result)
            }
        }
    } catch (Exception failure) {
        conclude(args, [image: args.image ? args.image.toString() : '', error: "${failure.message}".toString()])
        throw failure
    }
    conclude(args, result)
    return result
}

/** The request, and between build and push the closure: then it is built without a push, and what it has seen is pushed. */
private Map carriedOut(Map args, Map request, Closure body) {
    Builder builder = new Builder(this, 'kanikoBuild', args)
    String folder = builder.newFolder()
    String reports = "${folder}/reports/kaniko/${args.name}".toString()
    boolean held = body != null && !request.dryRun
    Map asked = request + [reports: reports]
    if (held) {
        asked = asked + [push: false, output: request.output ?: [type: 'oci', path: "${folder}/image".toString()]]
    }
    Map result = [:]
    try {
        result = builder.run("${folder}/build".toString(), 'Build the image', asked)
        if (held) {
            body.call(result)
            if (request.push != false) {
                Map push = Summary.pushOf(request, result)
                result = result + builder.run("${folder}/push".toString(), 'Push the image', push) +
                    [size: result.size, durationMs: result.durationMs]
            }
        }
    } finally {
        keepReports(args, folder, reports, result)
        dir(folder) { deleteDir() }
    }
    return result
}

private void keepReports(Map args, String folder, String reports, Map result) {
    if (result.digest) {
        writeFile(file: "${reports}/result.json".toString(), text: JsonOutput.toJson(result), encoding: 'UTF-8')
    }
    dir("${folder}/reports".toString()) {
        if (args.archive != false) {
            archiveArtifacts(artifacts: 'kaniko/**', allowEmptyArchive: true)
        }
        if (args.stashResult && result.digest) {
            stash(name: args.stashResult.toString(), includes: 'kaniko/**')
        }
    }
}

/** What is told of the build outside its log, and the user's own way to tell. */
private void conclude(Map args, Map result) {
    if (result.digest && args.description != false) {
        String line = Summary.description(result, args, env.BUILD_URL)
        String before = currentBuild.description
        currentBuild.description = before ? "${before}\n${line}".toString() : line
    }
    if (args.exportEnv && result.digest) {
        env.KANIKO_IMAGE_REF = result.imageRef
        env.KANIKO_IMAGE_DIGEST = result.digest
    }
    if (args.checks) {
        publishCheck(args, result)
    }
    if (args.notify) {
        ((Closure) args.notify).call(result)
    }
}

/** Only where a plugin has that step. */
private void publishCheck(Map args, Map result) {
    try {
        publishChecks(name: "image ${args.name}".toString(), title: result.error ? 'failed' : 'built',
            summary: Summary.check(result), conclusion: result.error ? 'FAILURE' : 'SUCCESS')
    } catch (NoSuchMethodError missing) {
        echo('kanikoBuild: checks are not published: no plugin has the step publishChecks')
    }
}

private Map requestOf(Map args) {
    Map facts = kanikoTags.facts(Arguments.only(args, ['primaryBranches', 'commit']))
    Map request = Arguments.only(args, REQUESTED)
    request.remove('secrets') // made of credentials by the builder
    if (args.image && (args.tags == null || args.tags.toString() == 'auto')) {
        request.tags = Tags.of(facts)
    }
    boolean automatic = args.push == null && !args.publish || args.publish.toString() == 'auto'
    if (!pushes(args, facts)) {
        request.push = false
    }
    return Summary.request(request, facts, args, automatic, env.BUILD_URL)
}

private boolean pushes(Map args, Map facts) {
    if (args.push != null) {
        return args.push
    }
    if (args.publish instanceof Closure) {
        return ((Closure) args.publish).call()
    }
    String rule = args.publish ? args.publish.toString() : 'auto'
    return rule == 'always' || rule == 'auto' && !facts.change
}

private String problemOf(Map args) {
    String problem = Arguments.problem(args, REQUESTED + HERE) ?: Credentials.problem(args)
    if (problem) {
        return problem
    }
    if (args.push != null && args.publish != null) {
        return "'push' and 'publish' say the same thing: give one of them"
    }
    if (!args.image && !args.destinations && args.push != false && args.publish.toString() != 'never') {
        return "there is nowhere to push to: give 'image', or 'destinations', or push: false"
    }
    return ''
}
