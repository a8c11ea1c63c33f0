package kaniko

import com.cloudbees.groovy.cps.NonCPS

/** Which tags an image gets, from what Jenkins says of the branch. The same facts give the same tags. */
class Tags {
    static final List PRIMARY = ['main', 'master']
    private static final int LONGEST = 128
    private static final int COMMIT = 12

    /** The facts of a build: what Jenkins knows, and over it what a call says. */
    @NonCPS
    static Map facts(Map known, Map args, boolean primary) {
        Map facts = [:]
        for (entry in known.entrySet()) {
            facts[entry.key] = entry.value == null ? '' : entry.value.toString()
        }
        // A call that names what is built means that, whatever this build is of.
        if (args.tag != null || args.change != null || args.branch != null) {
            facts.tag = facts.change = facts.branch = ''
        }
        facts.putAll((Map) Arguments.plain(args))
        if (facts.change && !args.tag) {
            facts.tag = ''
        }
        List primaries = args.primaryBranches == null ? PRIMARY : Arguments.texts(args.primaryBranches)
        facts.primary = args.primary != null ? args.primary : primary && !args.branch || primaries.contains(facts.branch)
        return facts
    }

    /**
     * Facts: tag, change, branch, primary, commit, build (texts, empty or null: not known; primary is
     * a boolean) and latest, whether a stable version gets that tag too.
     */
    @NonCPS
    static List of(Map facts) {
        String build = facts.build ?: ''
        if (facts.tag) {
            return ofVersion(facts.tag.toString(), facts.latest == true)
        }
        if (facts.change) {
            return [clean("pr-${facts.change}".toString())]
        }
        if (!facts.branch) {
            return [build ? clean("build-${build}".toString()) : 'build']
        }
        String branch = clean(facts.branch.toString())
        if (facts.primary) {
            String commit = facts.commit ? facts.commit.toString() : ''
            String second = commit ? shortened(commit) : build ? clean("${branch}-${build}".toString()) : branch
            return ['latest', second]
        }
        return build ? [branch, clean("${branch}-${build}".toString())] : [branch]
    }

    /** v1.2.3 is 1.2.3, 1.2 and 1 as well; what is no finished version, or one of major 0, is no more than itself. */
    @NonCPS
    private static List ofVersion(String tag, boolean latest) {
        List tags = [clean(tag)]
        String version = tag.startsWith('v') ? tag.substring(1) : tag
        if (!version.matches('(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)([-+].*)?')) {
            return tags
        }
        tags.add(clean(version))
        if (version.matches('[0-9.]+') && !version.startsWith('0.')) {
            tags.add(version.replaceAll('\\.[0-9]+$', ''))
            tags.add(version.replaceAll('\\..*', ''))
            if (latest) {
                tags.add('latest')
            }
        }
        return distinct(tags)
    }

    /** A text as a tag may be: of letters, digits, `_`, `.` and `-`, at most 128, no `.` or `-` in front. */
    @NonCPS
    static String clean(String text) {
        String decoded = text.replace('%2F', '/').replace('%2f', '/')
        String tag = decoded.replaceAll('[^A-Za-z0-9_.-]', '-').replaceAll('^[.-]+', '')
        if (!tag) {
            tag = 'x'
        }
        if (tag.length() <= LONGEST) {
            return tag
        }
        // What is cut off still tells two long names apart.
        String suffix = Integer.toString(Math.floorMod(decoded.hashCode(), Integer.MAX_VALUE), 36)
        return "${tag.substring(0, LONGEST - suffix.length() - 1)}-${suffix}".toString()
    }

    @NonCPS
    static String shortened(String commit) {
        return commit.length() > COMMIT ? commit.substring(0, COMMIT) : commit
    }

    @NonCPS
    static List distinct(List texts) {
        List seen = []
        for (text in texts) {
            if (!seen.contains(text)) {
                seen.add(text)
            }
        }
        return seen
    }
}
