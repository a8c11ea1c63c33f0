import groovy.transform.Field
import kaniko.Arguments
import kaniko.Builder
import kaniko.Pushes

@Field final List KNOWN = ['results', 'sources', 'annotations'] + Arguments.DESTINATION + Arguments.REGISTRIES + Arguments.HERE

/** Names images of several platforms together, as one index. */
Map call(Map args) {
    String problem = Arguments.problem(args, KNOWN) ?: Pushes.problemOfIndex(args)
    if (problem) {
        error("kanikoManifest: ${problem}")
    }
    Map request = Pushes.index(args)
    Builder builder = new Builder(this, 'kanikoManifest', args)
    return builder.runAlone('Name the images together', request)
}
