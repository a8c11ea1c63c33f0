import groovy.transform.Field
import kaniko.Arguments
import kaniko.Summary
import kaniko.Tags

@Field final List OWN = ['pod', 'platforms', 'scm', 'test']
// What is done once for all platforms, or with the index.
@Field final List OF_INDEX = ['tags', 'destinations', 'mirrors', 'notify', 'sign', 'exportEnv', 'platform', 'name']

/** A whole job: checks out, makes what goes into the image, builds it in a Pod a platform, pushes. */
void call(Map args = [:], Closure extra = null) {
    if (args.platforms != null && !(args.platforms instanceof Collection)) {
        error("kanikoPipeline: 'platforms' has to be a list: ['linux/amd64', 'linux/arm64']")
    }
    Map build = Arguments.without(args, OWN)
    List platforms = Arguments.texts(args.platforms)
    if (platforms.size() < 2) {
        onePlatform(platforms ? build + [platform: platforms[0]] : build, args, extra)
    } else {
        severalPlatforms(build, platforms, args, extra)
    }
}

private void onePlatform(Map build, Map args, Closure extra) {
    kanikoPodTemplate(podOf(args, build.platform)) {
        Map checkedOut = prepare(args, extra)
        stage('Image') { kanikoBuild(build + checkedOut, (Closure) args.test) }
    }
}

/** Each platform has a Pod on nodes of its own and pushes under a tag of its own; then the index names them together. */
private void severalPlatforms(Map build, List platforms, Map args, Closure extra) {
    Map results = [:]
    Map commits = [:]
    Map branches = [:]
    for (int i = 0; i < platforms.size(); i++) {
        String platform = platforms[i]
        branches[platform] = {
            kanikoPodTemplate(podOf(args, platform)) {
                Map checkedOut = prepare(args, extra)
                commits.putAll(checkedOut)
                Map one = Arguments.without(build, OF_INDEX) + checkedOut + [platform: platform]
                stage("Image ${platform}".toString()) {
                    results[platform] = kanikoBuild(one + [tags: [tagOf(platform)]], (Closure) args.test)
                }
            }
        }
    }
    parallel(branches + [failFast: true])
    List pushed = []
    for (int i = 0; i < platforms.size(); i++) {
        if (results[platforms[i]].pushed) {
            pushed.add(results[platforms[i]])
        }
    }
    if (pushed.size() == platforms.size()) {
        index(build + commits, pushed, args)
    }
}

private void index(Map build, List pushed, Map args) {
    Map named = Summary.indexOf(build, Tags.of(kanikoTags.facts(Arguments.only(build, ['commit', 'primaryBranches']))))
    kanikoPodTemplate(podOf(args, null) + [tools: [:]]) {
        stage('Index') {
            Map result = kanikoManifest(named + [results: pushed])
            if (build.exportEnv) {
                env.KANIKO_IMAGE_REF = result.imageRef
                env.KANIKO_IMAGE_DIGEST = result.digest
            }
            if (build.sign) {
                ((Closure) build.sign).call(result)
            }
            if (build.notify) {
                ((Closure) build.notify).call(result)
            }
        }
    }
}

/** The workspace as the builder needs it; what Jenkins says of the commit. */
private Map prepare(Map args, Closure extra) {
    Map checkedOut = [:]
    if (args.scm != false) {
        stage('Checkout') {
            Object said = checkout(args.scm ?: scm)
            if (said instanceof Map && said.GIT_COMMIT) {
                checkedOut = [commit: said.GIT_COMMIT.toString()]
            }
        }
    }
    if (extra) {
        stage('Build') { extra.call() }
    } else if (fileExists('pom.xml')) {
        stage('Build') {
            container('maven') { sh(script: 'mvn -B -ntp package', label: 'Maven') }
        }
    }
    return checkedOut
}

private Map podOf(Map args, Object platform) {
    Map pod = args.pod ? (Map) args.pod : [:]
    return platform ? [arch: Summary.architecture(platform.toString())] + pod : pod
}

private String tagOf(String platform) {
    String build = env.BUILD_NUMBER
    return Tags.clean("build-${build}-${Summary.variant(platform)}".toString())
}
