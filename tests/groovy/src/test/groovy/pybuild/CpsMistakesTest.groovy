package pybuild

import static org.junit.Assert.assertEquals
import static org.junit.Assert.assertTrue

import org.junit.Test

/** The mistakes that are easily made in a pipeline, planted: each shows, as another answer than Groovy's or as an error. */
class CpsMistakesTest {
    private static final Map<String, String> PLANTED = [
        'sort with a closure': "return [3, 1, 2].sort { a, b -> a <=> b }",
        'sort by a key': "return ['ccc', 'a', 'bb'].sort { it.length() }",
        'toSorted with a closure': "return [3, 1, 2].toSorted { a, b -> a <=> b }",
        'unique with a closure': "return [1, 11, 2].unique { it % 10 }",
        'pairs of withIndex': "return ['a', 'b'].withIndex().collect { value, index -> value + index }",
        'replaceAll with groups': "return 'a1b2'.replaceAll(/([a-z])([0-9])/) { all, letter, digit -> digit + letter }",
        'spread': "return ['a', 'b']*.toUpperCase()",
        'a Matcher over a step': "def matcher = 'abc' =~ /b/; echo 'x'; return matcher.find()",
        'lazy JSON over a step': "def json = new groovy.json.JsonSlurper().parseText('{\"a\": {\"b\": 1}}'); echo 'x'; return json.a.b",
        'a stream over a step': "def stream = new ByteArrayInputStream('a'.bytes); echo 'x'; return stream.read()",
        'a thread over a step': "def thread = new Thread(); echo 'x'; return thread.alive",
        'a step in NonCPS': "@com.cloudbees.groovy.cps.NonCPS def f() { echo('x'); return 'done' }; return f()",
        'CPS in NonCPS': "def g() { return 'g' }\n@com.cloudbees.groovy.cps.NonCPS def f() { return g() + 'f' }; return f()",
        'CPS in a constructor': "class A implements Serializable { def x; A() { x = f() }; def f() { return 1 } }; return new A().x",
        'echo of a map': "echo([a: 1]); return 'done'",
        'an unknown step': "try { nope() } catch (Exception thrown) { return 'caught' }",
    ]

    /** What Groovy itself makes of it, with steps that do nothing. */
    private static Object plain(String code) {
        Binding names = new Binding([echo: { Object text -> null }, nope: { -> throw new StepFailed('no') }])
        return new GroovyShell(CpsMistakesTest.classLoader, names).evaluate(code)
    }

    private static Object underCps(String code) {
        try {
            return new CpsHarness().run(code)
        } catch (Throwable thrown) {
            return thrown
        }
    }

    @Test
    void everyOneShows() {
        PLANTED.each { name, code ->
            Object right = plain(code)
            Object found = underCps(code)
            assertTrue("$name: $found", found instanceof Throwable || found != right)
        }
    }

    @Test
    void whatIsRightIsLeftAlone() {
        [
            "return [3, 1, 2].sort()", "return ['ccc', 'a'].collect { it.length() }", "return [1, 2, 3].findAll { it > 1 }",
            "return [a: 1].collectEntries { key, value -> [(key + 'x'): value] }", "return [1, 2].inject(0) { sum, each -> sum + each }",
            "def all = []; ['a', 'b'].eachWithIndex { each, index -> echo each; all << each + index }; return all",
            "def all = []; 3.times { echo 'x'; all << it }; return all", "return ['bb', 'a'].max { it.length() }",
            "return ['a', 'b'].groupBy { it == 'a' }", "return 'a-b'.replaceAll('-', '+')", "return [1, 2].any { it == 2 }",
            "def m = ('abc' =~ /b/).find(); echo 'x'; return m", "def key = 'k'; def m = [:]; m[\"\${key}\".toString()] = 1; return m.k",
        ].each { code -> assertEquals(code, plain(code), underCps(code)) }
    }

    /** The same in the library: the tests of a step would find each. */
    @Test
    void inTheLibraryTheyShowToo() {
        String job = """kanikoBuild(parallel: true, tags: ['1'], publish: 'always', images: [[image: 'r/b'], [image: 'r/a']]) { 'x' }"""
        [
            ['Map branches = [:]', "Map branches = [:]; def found = 'a' =~ /a/"],
            ['results[name] = build(one, body)', 'results.put("${name}", build(one, body))'],
            ['boolean held = ', 'def stream = new StringReader("x"); boolean held = '],
            ['List wanted = Summary.images(args, OF_ALL)', 'List wanted = Summary.images(args, OF_ALL).sort { it.name }'],
            ['private Map requestOf(Map args) {', '@com.cloudbees.groovy.cps.NonCPS\nprivate Map requestOf(Map args) {'],
        ].each { planted ->
            CpsHarness harness = new CpsHarness(null, { String name, String text ->
                if (name != 'kanikoBuild') {
                    return text
                }
                assertTrue(planted[0], text.contains(planted[0]))
                return text.replace(planted[0], planted[1])
            })
            List requests = []
            harness.pipeline.on('sh') { arguments, pipeline ->
                requests << pipeline.files[pipeline.environment().PYBUILD_REQUEST]
                return 0
            }
            harness.pipeline.on('fileExists') { arguments, pipeline -> true }
            harness.pipeline.on('readFile') { arguments, pipeline ->
                '{"digest": "sha256:1", "image": "r/b", "output": {"path": "x"}, "tags": ["1"], "pushed": true}'
            }
            Throwable found = null
            try {
                harness.run(job)
            } catch (Throwable thrown) {
                found = thrown
            }
            assertTrue("$planted was not found", found != null || requests.any { !it.contains('"image":"r/') })
            assertTrue("$planted: $found", !(found instanceof StepFailed))
        }
    }
}
