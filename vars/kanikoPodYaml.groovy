import kaniko.Pod
import kaniko.Yaml

/** A Pod for a build, as YAML. Needs no node, so that it may stand in a Declarative `agent`. */
String call(Map args = [:]) {
    String problem = Pod.problem(args)
    if (problem) {
        error("kanikoPodYaml: ${problem}")
    }
    String image = env.KANIKO_BUILDER_IMAGE
    return Yaml.of(Pod.of(args, image))
}
