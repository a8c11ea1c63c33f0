package pybuild

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import groovy.transform.CompileStatic
import org.codehaus.groovy.runtime.GStringImpl
import org.codehaus.groovy.runtime.ScriptBytecodeAdapter
import org.kohsuke.groovy.sandbox.GroovyInterceptor

/**
 * The sandbox a folder's library runs in, with a list of our own: what the vars use, each entry looked
 * up in the list that Jenkins ships. A new entry here has to be looked up there, too. Compiled
 * statically, as it must not call itself.
 */
@CompileStatic
class Sandbox extends GroovyInterceptor {
    private static final Map<Class, Set<String>> METHODS = [
        (CharSequence): [
            'contains', 'endsWith', 'getAt', 'hashCode', 'indexOf', 'isEmpty', 'lastIndexOf', 'length', 'matches', 'multiply', 'plus',
            'replace', 'replaceAll', 'startsWith', 'substring', 'toDouble', 'toLowerCase', 'toString',
        ] as Set<String>,
        (Map): ['containsKey', 'entrySet', 'get', 'getAt', 'isEmpty', 'keySet', 'plus', 'put', 'putAll', 'putAt', 'remove', 'size', 'toString'] as Set<String>,
        (Map.Entry): ['getKey', 'getValue'] as Set<String>,
        (Collection): ['add', 'contains', 'getAt', 'isEmpty', 'iterator', 'join', 'minus', 'plus', 'size'] as Set<String>,
        (Iterator): ['hasNext', 'next'] as Set<String>,
        (Number): ['minus', 'multiply', 'next', 'plus', 'toString'] as Set<String>,
        (Comparable): ['compareTo'] as Set<String>,
        (UUID): ['toString'] as Set<String>,
        (Class): ['isInstance'] as Set<String>,
        (Boolean): ['toString'] as Set<String>,
        (Object): ['equals', 'hashCode', 'toString'] as Set<String>,
        (Throwable): ['getMessage'] as Set<String>,
        (Environment): Environment.NAMES,
        (CurrentBuild): ['getDescription', 'description'] as Set<String>,
        (JsonSlurper): ['parseText'] as Set<String>,
    ]
    private static final Map<Class, Set<String>> STATICS = [
        (JsonOutput): ['toJson'] as Set<String>,
        (Math): ['floorMod', 'min'] as Set<String>,
        (UUID): ['randomUUID'] as Set<String>,
        (Integer): ['MAX_VALUE', 'toString'] as Set<String>,
        (ScriptBytecodeAdapter): [
            'castToType', 'compareEqual', 'compareGreaterThan', 'compareGreaterThanEqual', 'compareLessThan',
            'compareLessThanEqual', 'compareNotEqual',
        ] as Set<String>,
    ]
    private static final Set<Class> MADE = [GStringImpl, JsonSlurper] as Set<Class>

    int asked = 0

    @Override
    Object onMethodCall(GroovyInterceptor.Invoker invoker, Object receiver, String method, Object... args) {
        check(receiver, method, args.toList().toString())
        return super.onMethodCall(invoker, receiver, method, args)
    }

    @Override
    Object onGetProperty(GroovyInterceptor.Invoker invoker, Object receiver, String property) {
        if (receiver instanceof Class) {
            allow(isOfLibrary((Class) receiver) || STATICS[(Class) receiver]?.contains(property), "staticField ${((Class) receiver).name} $property")
        } else {
            check(receiver, receiver instanceof Map ? 'get' : getter(property), '')
        }
        return super.onGetProperty(invoker, receiver, property)
    }

    @Override
    Object onSetProperty(GroovyInterceptor.Invoker invoker, Object receiver, String property, Object value) {
        check(receiver, receiver instanceof Map ? 'putAt' : property, '')
        return super.onSetProperty(invoker, receiver, property, value)
    }

    @Override
    Object onGetArray(GroovyInterceptor.Invoker invoker, Object receiver, Object index) {
        check(receiver, 'getAt', '')
        return super.onGetArray(invoker, receiver, index)
    }

    @Override
    Object onSetArray(GroovyInterceptor.Invoker invoker, Object receiver, Object index, Object value) {
        check(receiver, 'putAt', '')
        return super.onSetArray(invoker, receiver, index, value)
    }

    @Override
    Object onStaticCall(GroovyInterceptor.Invoker invoker, Class receiver, String method, Object... args) {
        // groovy-cps itself makes the two arrays of a GString like this.
        boolean ofText = method == 'asType' && args.length == 2 && ((Class) args[1]).array
        allow(ofText || isOfLibrary(receiver) || STATICS[receiver]?.contains(method), "staticMethod ${receiver.name} $method")
        return super.onStaticCall(invoker, receiver, method, args)
    }

    @Override
    Object onNewInstance(GroovyInterceptor.Invoker invoker, Class receiver, Object... args) {
        allow(MADE.contains(receiver) || isOfLibrary(receiver), "new ${receiver.name}")
        return super.onNewInstance(invoker, receiver, args)
    }

    /** Of a script's own base class. */
    @Override
    void onSuperConstructor(GroovyInterceptor.Invoker invoker, Class receiver, Object... args) { }

    @Override
    Object onGetAttribute(GroovyInterceptor.Invoker invoker, Object receiver, String attribute) {
        throw new SecurityException("field $attribute")
    }

    /** What the library itself has defined is its own, as in Jenkins. */
    private static boolean isOfLibrary(Class type) {
        return type.classLoader instanceof GroovyClassLoader
    }

    private static String getter(String property) { 'get' + property.capitalize() }

    /** A script's own methods and fields, its steps, and closures are its own business. */
    private void check(Object receiver, String method, String args) {
        boolean known = receiver instanceof PipelineScript || receiver instanceof Closure ||
            receiver != null && isOfLibrary(receiver.class)
        METHODS.each { Class type, Set<String> names -> known |= type.isInstance(receiver) && names.contains(method) }
        allow(known, "method ${receiver?.class?.name} $method $args")
    }

    private void allow(Boolean known, String signature) {
        asked += 1
        if (!known) {
            throw new SecurityException("Scripts not permitted to use $signature")
        }
    }
}
