package pybuild

/** A step that a pipeline waits for. */
class StepCall implements Serializable {
    enum Edge { NONE, BEGIN, END }

    final String name
    final Map<String, Object> arguments
    final Edge edge

    StepCall(Object name, Object arguments, Object edge = Edge.NONE) {
        this.name = name.toString()
        this.arguments = new LinkedHashMap<String, Object>((Map) arguments)
        this.edge = Edge.valueOf(edge.toString())
    }

    @Override
    String toString() {
        String text = arguments.collect { key, value -> "$key: $value" }.join(', ')
        return edge == Edge.END ? "} $name" : "$name($text)" + (edge == Edge.BEGIN ? ' {' : '')
    }
}
