package pybuild

/**
 * What stands in a section of a Declarative pipeline: each thing that may stand there, with what it was
 * called with. What may not is left to the script, which knows no such step.
 */
class Sections implements Serializable {
    final Map<String, List<List>> found = [:]
    private final List<String> known
    private final Map<String, Object> values = [:]

    Sections(List<String> known) { this.known = known }

    @Override
    Object invokeMethod(String name, Object args) {
        if (!(name in known)) {
            throw new MissingMethodException(name, Sections, (Object[]) args)
        }
        List given = ((Object[]) args).toList()
        found.get(name, []) << given
        return [(name): given]
    }

    @Override
    Object getProperty(String name) {
        switch (name) {
            case 'found': return found
            case 'values': return values
            case ['any', 'none']: return name
        }
        if (values.containsKey(name)) {
            return values[name]
        }
        throw new MissingPropertyException(name, Sections)
    }

    @Override
    void setProperty(String name, Object value) { values[name] = value }
}
