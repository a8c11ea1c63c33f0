package pybuild

import groovy.transform.CompileStatic

/**
 * Iterators of the JDK can't be written down, so a pipeline iterates over these; a loop with a step in
 * it then survives a restart. Jenkins does the same, with a category of its own. Compiled statically:
 * what is in here must not be sent through the category again.
 */
@CompileStatic
class SerializableIteration {
    static Iterator iterator(List list) { new Position(new ArrayList(list)) }

    static Iterator iterator(Set set) { new Position(new ArrayList(set)) }

    static Iterator iterator(Map map) { new Position(new ArrayList(entrySet(map))) }

    static Collection entrySet(Map map) {
        List entries = []
        for (Iterator each = new LinkedHashMap(map).entrySet().iterator(); each.hasNext();) {
            Map.Entry entry = (Map.Entry) each.next()
            entries.add(new AbstractMap.SimpleImmutableEntry(entry.key, entry.value))
        }
        return entries
    }

    static class Position implements Iterator, Serializable {
        private final ArrayList items
        private int next = 0

        Position(ArrayList items) { this.items = items }

        @Override
        boolean hasNext() { next < items.size() }

        @Override
        Object next() {
            if (!hasNext()) {
                throw new NoSuchElementException()
            }
            return items.get(next++)
        }

        @Override
        void remove() { throw new UnsupportedOperationException() }
    }
}
