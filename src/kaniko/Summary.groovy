package kaniko

import com.cloudbees.groovy.cps.NonCPS

/** What a build's arguments and its result come to, as plain values. */
class Summary {
    /** One map of arguments an image: `args` itself, or each of its `images` over the rest; each with a name of its own. */
    @NonCPS
    static List images(Map args, List ofAll) {
        List wanted = []
        List names = []
        List given = args.images instanceof Collection ? (List) args.images : []
        for (one in (given ?: [[:]])) {
            Map merged = Arguments.without(args, given ? ofAll + ['name'] : ['images', 'parallel', 'failFast', 'unstash'])
            merged.putAll((Map) one)
            String name = nameOf(merged)
            int number = 2
            String free = name
            while (names.contains(free)) {
                free = "${name}-${number}".toString()
                number = number + 1
            }
            names.add(free)
            merged.name = free
            wanted.add(merged)
        }
        return wanted
    }

    /** What the reports of this image are filed under. */
    @NonCPS
    private static String nameOf(Map args) {
        String name = args.name ?: args.image ?: 'image'
        if (!args.name) {
            name = name.substring(name.lastIndexOf('/') + 1)
            if (args.target) {
                name = "${name}-${args.target}".toString()
            }
            if (args.platform) {
                String platform = args.platform.toString()
                name = "${name}-${platform.substring(platform.indexOf('/') + 1)}".toString()
            }
        }
        return Tags.clean(name)
    }

    /** The arguments of the step `timeout`: minutes, or [time:, unit:] as they are. */
    @NonCPS
    static Map time(Object given) {
        if (given instanceof Map) {
            return [time: given.time, unit: (given.unit ?: 'MINUTES').toString()]
        }
        return [time: given == null ? 60 : given, unit: 'MINUTES']
    }

    /** The request with what Jenkins knows: labels, a cache that a change may not write, who asks. */
    @NonCPS
    static Map request(Map request, Map facts, Map args, boolean automatic, Object address) {
        Map whole = [:]
        whole.putAll(request)
        if (args.ociLabels != false) {
            whole.ociLabels = labels(request, facts, args)
        }
        if (args.cache) {
            whole.cache = cache(args.cache, automatic && facts.change ? true : false)
        }
        if (address) {
            whole.invocation = address.toString()
        }
        return whole
    }

    @NonCPS
    private static Object cache(Object given, boolean ofChange) {
        if (!(given instanceof Map)) {
            return ofChange ? [readOnly: true] : given
        }
        Map cache = (Map) Arguments.plain(given)
        Object wanted = cache.remove('readOnlyOnPr')
        if (ofChange && wanted != false && cache.readOnly == null) {
            cache.readOnly = true
        }
        return cache
    }

    @NonCPS
    private static Map labels(Map request, Map facts, Map args) {
        Map known = [:]
        String context = request.context ?: '.'
        if (!context.contains('://')) {
            put(known, 'source', facts.source)
            put(known, 'revision', facts.commit)
            if (facts.source && facts.source.toString().startsWith('http')) {
                put(known, 'url', facts.source.toString().replaceAll('//[^/@]*@', '//').replaceAll('\\.git$', ''))
            }
        }
        put(known, 'ref.name', facts.tag ?: facts.branch)
        put(known, 'version', request.tags ? Arguments.texts(request.tags)[0] : '')
        if (args.ociLabels instanceof Map) {
            known.putAll((Map) Arguments.plain(args.ociLabels))
        }
        return known
    }

    @NonCPS
    private static void put(Map into, String name, Object value) {
        if (value) {
            into[name] = value.toString()
        }
    }

    /** The request that pushes what a build has left in a layout or archive. */
    @NonCPS
    static Map pushOf(Map request, Map result) {
        Map push = [command: 'push', path: result.output.path, digest: result.digest]
        push.putAll(Arguments.only(request, Arguments.DESTINATION + Arguments.REGISTRIES))
        return push
    }

    /** The result of several builds. */
    @NonCPS
    static Map together(List results) {
        boolean pushed = true
        for (one in results) {
            pushed = pushed && one.pushed
        }
        return [images: results, pushed: pushed]
    }

    /** A line for the build's page: as text, or for a controller with safe HTML as that. */
    @NonCPS
    static String description(Map result, Map args, Object address) {
        boolean html = args.description.toString() == 'html'
        String name = result.tags ? "${result.image}:${result.tags[0]}" : result.image ?: args.name
        String digest = result.digest.toString()
        String text = "${name} ${digest.length() > 19 ? digest.substring(0, 19) : digest}".toString()
        if (html) {
            text = escaped(text)
        }
        if (args.archive == false || !address) {
            return text
        }
        Map files = [:]
        files.putAll(result.reports ?: [:])
        if (!files.report) {
            files.result = 'result.json'
        }
        for (kind in ['report', 'sbom', 'provenance', 'result']) {
            if (files[kind]) {
                String link = "${address}artifact/kaniko/${args.name}/${files[kind]}".toString()
                text = text + (html ? " <a href=\"${escaped(link)}\">${kind}</a>" : " ${kind}: ${link}").toString()
            }
        }
        return text
    }

    @NonCPS
    static String check(Map result) {
        if (result.error) {
            return result.error.toString()
        }
        String where = result.pushed ? "pushed as ${result.imageRef}" : 'not pushed'
        return "${result.digest}, ${where}; ${result.layers} layers, ${result.size} bytes".toString()
    }

    @NonCPS
    private static String escaped(String text) {
        return text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;').replace('"', '&quot;')
    }

    /** linux/arm64/v8 is arm64-v8. */
    @NonCPS
    static String variant(String platform) {
        return platform.substring(platform.indexOf('/') + 1).replace('/', '-')
    }

    /** linux/arm64/v8 is arm64. */
    @NonCPS
    static String architecture(String platform) {
        int slash = platform.indexOf('/')
        return platform.substring(slash + 1).replaceAll('/.*', '')
    }

    /** The arguments of kanikoManifest from those of a build. */
    @NonCPS
    static Map indexOf(Map build, List automatic) {
        Map named = Arguments.only(build, Arguments.DESTINATION + Arguments.REGISTRIES + Arguments.HERE + ['annotations'])
        if (build.image && (build.tags == null || build.tags.toString() == 'auto')) {
            named.tags = automatic
        }
        return named
    }
}
