package kaniko

import com.cloudbees.groovy.cps.NonCPS
import groovy.json.JsonOutput

/** Maps, lists and plain values as YAML that people like to read. */
class Yaml {
    // As plain text these would be read as something else.
    private static final List WORDS = ['true', 'false', 'yes', 'no', 'on', 'off', 'null', 'y', 'n']

    @NonCPS
    static String of(Map value) {
        List lines = []
        addMap(lines, value, '', '')
        return lines.join('\n') + '\n'
    }

    /** `first` stands before the first key: the dash of a list's item, or the indentation. */
    @NonCPS
    private static void addMap(List lines, Map map, String first, String indentation) {
        String before = first
        for (entry in map.entrySet()) {
            addEntry(lines, "${before}${scalar(entry.key)}:".toString(), entry.value, indentation)
            before = indentation
        }
    }

    @NonCPS
    private static void addEntry(List lines, String start, Object value, String indentation) {
        if (value instanceof Map && !value.isEmpty()) {
            lines.add(start)
            addMap(lines, (Map) value, indentation + '  ', indentation + '  ')
        } else if (value instanceof List && hasMaps((List) value)) {
            lines.add(start)
            for (item in (List) value) {
                addMap(lines, (Map) item, indentation + '  - ', indentation + '    ')
            }
        } else {
            lines.add("${start} ${inline(value)}".toString())
        }
    }

    @NonCPS
    private static boolean hasMaps(List list) {
        for (item in list) {
            if (!(item instanceof Map)) {
                return false
            }
        }
        return !list.isEmpty()
    }

    @NonCPS
    private static String inline(Object value) {
        if (value instanceof Map) {
            return '{}'
        }
        if (value instanceof List) {
            List texts = []
            for (item in (List) value) {
                texts.add(scalar(item))
            }
            return '[' + texts.join(', ') + ']'
        }
        return scalar(value)
    }

    @NonCPS
    private static String scalar(Object value) {
        if (value instanceof Number || value instanceof Boolean) {
            return value.toString()
        }
        String text = value == null ? '' : value.toString()
        boolean safe = text.matches('[0-9]+(m|k|M|G|T|Ki|Mi|Gi|Ti|s|h|d)') || text.matches('[A-Za-z/.][A-Za-z0-9_./@-]*(:[A-Za-z0-9_./@-]+)*') &&
            !WORDS.contains(text.toLowerCase()) && !text.matches('\\.[0-9.]+.*|\\.(inf|nan|Inf|NaN|INF)|\\.')
        return safe ? text : JsonOutput.toJson(text)
    }
}
