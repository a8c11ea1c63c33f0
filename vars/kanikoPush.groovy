import groovy.transform.Field
import kaniko.Arguments
import kaniko.Builder
import kaniko.Credentials
import kaniko.Pushes

@Field final List KNOWN = ['result', 'path', 'digest'] + Arguments.DESTINATION + Arguments.REGISTRIES + Arguments.HERE

/** Pushes what a build has left in a layout or archive, under the digest that it has there. */
Map call(Map args, Map result) {
    return call([result: result] + args)
}

Map call(Map given) {
    Map args = given.containsKey('schema') ? [result: given] : given
    String problem = Arguments.problem(args, KNOWN) ?: Pushes.problem(args)
    if (problem) {
        error("kanikoPush: ${problem}")
    }
    Map request = Pushes.request(args)
    Builder builder = new Builder(this, 'kanikoPush', Pushes.withImage(args, request))
    return builder.runAlone('Push the image', request)
}
