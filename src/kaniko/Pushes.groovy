package kaniko

import com.cloudbees.groovy.cps.NonCPS

/** The requests that push what is there already. */
class Pushes {
    @NonCPS
    static String problem(Map args) {
        Map result = (Map) (args.result ?: [:])
        if (!args.path && !(result.output ?: [:]).path) {
            return "there is nothing to push: give a result of kanikoBuild(push: false, output: [type: 'oci', " +
                "path: '…']), or 'path'"
        }
        if (!args.image && !args.destinations && !result.destinations) {
            return "there is nowhere to push to: give 'image' and 'tags', or 'destinations'"
        }
        return args.tags && !args.image ? "'tags' needs 'image'" : Credentials.problem(withImage(args, [:]))
    }

    /** To where the arguments say, else to where the result was meant for. */
    @NonCPS
    static Map request(Map args) {
        Map result = (Map) (args.result ?: [:])
        Map request = [command: 'push', path: (args.path ?: result.output.path).toString()]
        String digest = args.digest ?: args.path ? args.digest : result.digest
        if (digest) {
            request.digest = digest
        }
        request.putAll(Arguments.only(args, Arguments.DESTINATION + requested()))
        if (!args.image && !args.destinations) {
            request.destinations = result.destinations
        }
        return request
    }

    /** With the image that `credentialsId` is for. */
    @NonCPS
    static Map withImage(Map args, Map request) {
        Map result = (Map) (args.result ?: [:])
        Map whole = [:]
        whole.putAll(args)
        List named = Arguments.texts(args.destinations ?: result.destinations)
        if (!args.image && named) {
            whole.image = named[0]
        }
        return whole
    }

    @NonCPS
    static String problemOfIndex(Map args) {
        if (!args.results && !args.sources) {
            return "there are no images: give 'results' of kanikoBuild, or 'sources'"
        }
        for (one in (args.results ?: [])) {
            if (!(one instanceof Map) || !one.imageRef) {
                return "'results' has one that was not pushed: an index names what a registry has"
            }
        }
        if (!args.image && !args.destinations) {
            return "the index needs a name: give 'image' and 'tags', or 'destinations'"
        }
        return args.image && !args.tags ? "'image' needs 'tags'" : Credentials.problem(args)
    }

    @NonCPS
    static Map index(Map args) {
        List sources = []
        for (one in (args.results ?: [])) {
            sources.add(one.imageRef.toString())
        }
        for (source in Arguments.texts(args.sources)) {
            sources.add(source)
        }
        Map request = [command: 'manifest', sources: sources]
        request.putAll(Arguments.only(args, Arguments.DESTINATION + requested() + ['annotations']))
        return request
    }

    @NonCPS
    private static List requested() {
        return ['insecureRegistries', 'registryMirrors', 'registryMap', 'retries', 'verbosity']
    }
}
