import groovy.transform.Field
import kaniko.Arguments
import kaniko.Tags

@Field final List KNOWN = ['tag', 'change', 'branch', 'build', 'commit', 'primary', 'primaryBranches', 'latest']

/** The tags of an image that is built for this branch, tag or change. */
List call(Map args = [:]) {
    String problem = Arguments.problem(args, KNOWN)
    if (problem) {
        error("kanikoTags: ${problem}")
    }
    return Tags.of(facts(args))
}

/** What Jenkins knows of what is built; an argument that is given counts before it. */
Map facts(Map args = [:]) {
    Map known = [
        tag: env.TAG_NAME, change: env.CHANGE_ID, branch: env.BRANCH_NAME, build: env.BUILD_NUMBER,
        commit: env.GIT_COMMIT, source: env.GIT_URL,
    ]
    String isPrimary = env.BRANCH_IS_PRIMARY
    return Tags.facts(known, args, isPrimary == 'true')
}
