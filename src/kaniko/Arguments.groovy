package kaniko

import com.cloudbees.groovy.cps.NonCPS

/**
 * Checks of what a step is called with. All here is plain computation, out of the reach of restarts: a
 * controller can't be stopped within it.
 */
class Arguments {
    static final List REGISTRIES = [
        'credentialsId', 'registries', 'dockerConfigCredentialsId', 'dockerConfigDir', 'caBundle',
        'insecureRegistries', 'registryMirrors', 'registryMap', 'retries', 'verbosity',
    ]
    static final List DESTINATION = ['image', 'tags', 'destinations', 'mirrors']
    static final List HERE = ['container', 'shell', 'builder', 'timeout']
    private static final List CLOSURES = ['preBuild', 'sign', 'notify', 'test']
    private static final List SWITCHES = ['parallel', 'failFast', 'archive', 'checks', 'exportEnv']
    private static final Map LATER = [lint: 'checks of the Dockerfile come with a later version']

    /** What is wrong, in a sentence; empty if nothing is. */
    @NonCPS
    static String problem(Map args, List known) {
        for (entry in args.entrySet()) {
            String name = entry.key.toString()
            if (LATER.containsKey(name)) {
                return "'${name}' is not there yet: ${LATER[name]}"
            }
            if (!known.contains(name)) {
                return "unknown argument '${name}'; did you mean '${nearest(name, known)}'?"
            }
            String wrong = wrongValue(name, entry.value)
            if (wrong) {
                return "'${name}' ${wrong}"
            }
        }
        return ''
    }

    @NonCPS
    private static String wrongValue(String name, Object value) {
        boolean closure = value instanceof Closure
        if (CLOSURES.contains(name)) {
            return value == null || closure ? '' : 'has to be a closure'
        }
        if (name == 'publish' && !closure) {
            return ['auto', 'always', 'never'].contains(value?.toString()) ? '' :
                "has to be 'auto', 'always', 'never' or a closure"
        }
        if (closure) {
            return name == 'publish' ? '' : 'has to be made of text, numbers, booleans, lists and maps'
        }
        if (name == 'images') {
            return isListOfMaps(value) ? '' : "has to be a list of maps: [[image: 'registry.example.com/team/a'], …]"
        }
        if (name == 'scm' || name == 'workspaceVolume') {
            return ''
        }
        if (SWITCHES.contains(name)) {
            return value == null || value instanceof Boolean ? '' : 'has to be true or false, without quotes'
        }
        if (name == 'extraArgs' && value instanceof CharSequence) {
            return "has to be a list, a text for each flag: ['--single-snapshot']"
        }
        return isPlain(value) ? '' : 'has to be made of text, numbers, booleans, lists and maps'
    }

    @NonCPS
    private static boolean isListOfMaps(Object value) {
        if (value == null) {
            return true
        }
        if (!(value instanceof Collection)) {
            return false
        }
        for (item in (Collection) value) {
            if (!(item instanceof Map)) {
                return false
            }
        }
        return true
    }

    @NonCPS
    static boolean isPlain(Object value) {
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
    static Object plain(Object value) {
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

    /** Of the arguments those that are named and given, as plain data. */
    @NonCPS
    static Map only(Map args, List names) {
        Map chosen = [:]
        for (entry in args.entrySet()) {
            String name = entry.key.toString()
            if (names.contains(name) && entry.value != null) {
                chosen[name] = plain(entry.value)
            }
        }
        return chosen
    }

    /** The arguments that are not named, as they are, closures too. */
    @NonCPS
    static Map without(Map args, List names) {
        Map rest = [:]
        for (entry in args.entrySet()) {
            String name = entry.key.toString()
            if (!names.contains(name)) {
                rest[name] = entry.value
            }
        }
        return rest
    }

    @NonCPS
    static List texts(Object value) {
        if (value == null) {
            return []
        }
        return value instanceof Collection ? (List) plain(value) : [value.toString()]
    }

    @NonCPS
    static String nearest(String name, List known) {
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
    private static int editDistance(String from, String to) {
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
}
