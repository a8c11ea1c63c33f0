package hello;

/** What the server answers, apart from how it is served. */
final class Page {
    private Page() {
    }

    /** The page for a path such as {@code /} or {@code /Ada}: it greets the last part. */
    static String of(String path) {
        String name = path.substring(path.lastIndexOf('/') + 1);
        return "Hello, " + (name.isEmpty() ? "world" : escaped(name)) + "!\n";
    }

    private static String escaped(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;");
    }
}
