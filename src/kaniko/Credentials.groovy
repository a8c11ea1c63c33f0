package kaniko

import com.cloudbees.groovy.cps.NonCPS

/** From ids of Jenkins' credentials to what binds them, and to the names that a request knows them by. */
class Credentials {
    /** [bindings: for withCredentials, request: the part that names the variables]. */
    @NonCPS
    static Map of(Map args, String image) {
        List bindings = []
        Map request = [:]
        List logins = []
        for (entry in entriesOf(args, image)) {
            int number = logins.size()
            Map login = [url: entry.url, usernameEnv: "PYBUILD_LOGIN_${number}_USERNAME".toString(),
                         passwordEnv: "PYBUILD_LOGIN_${number}_PASSWORD".toString()]
            bindings.add(userAndPassword(entry.credentialsId, login.usernameEnv, login.passwordEnv))
            logins.add(login)
        }
        if (logins) {
            request.registries = logins
        }
        if (args.dockerConfigCredentialsId) {
            bindings.add(file(args.dockerConfigCredentialsId, 'PYBUILD_DOCKER_CONFIG'))
            request.dockerConfig = 'PYBUILD_DOCKER_CONFIG'
        }
        if (args.gitCredentialsId) {
            bindings.add(userAndPassword(args.gitCredentialsId, 'GIT_USERNAME', 'GIT_PASSWORD'))
        }
        if (args.secrets) {
            request.secrets = secrets(args.secrets, bindings)
        }
        return [bindings: bindings, request: request]
    }

    /** What is wrong with the credentials; empty if nothing is. */
    @NonCPS
    static String problem(Map args) {
        if (args.credentialsId && !args.image) {
            return "'credentialsId' is for the registry of 'image', which is not given; take 'registries'"
        }
        for (entry in (args.registries ?: [])) {
            if (!(entry instanceof Map) || !entry.url || !entry.credentialsId) {
                return "'registries' has to be a list of maps: [[url: 'registry.example.com', credentialsId: 'id']]"
            }
            String unknown = Arguments.problem((Map) entry, ['url', 'credentialsId'])
            if (unknown) {
                return "'registries': ${unknown}"
            }
        }
        if (args.secrets instanceof Collection) {
            for (entry in args.secrets) {
                if (!(entry instanceof Map) || !entry.id || !(entry.credentialsId || entry.file || entry.env)) {
                    return "'secrets' has to be a list of maps: [[id: 'npm', credentialsId: 'npm-token']]"
                }
                String unknown = Arguments.problem((Map) entry, ['id', 'credentialsId', 'type', 'file', 'env'])
                if (unknown) {
                    return "'secrets': ${unknown}"
                }
                if (!['text', 'file'].contains((entry.type ?: 'text').toString())) {
                    return "'secrets': 'type' has to be 'text' or 'file', as the credential is"
                }
            }
        }
        return ''
    }

    /** The registry of an image's name, as Docker reads it. */
    @NonCPS
    static String hostOf(String image) {
        int slash = image.indexOf('/')
        String first = slash < 0 ? '' : image.substring(0, slash)
        return first.contains('.') || first.contains(':') || first == 'localhost' ? first : 'docker.io'
    }

    @NonCPS
    private static List entriesOf(Map args, String image) {
        List entries = []
        if (args.credentialsId) {
            entries.add([url: hostOf(image ?: args.image.toString()), credentialsId: args.credentialsId.toString()])
        }
        for (entry in (args.registries ?: [])) {
            entries.add([url: entry.url.toString(), credentialsId: entry.credentialsId.toString()])
        }
        return entries
    }

    @NonCPS
    private static Map secrets(Object given, List bindings) {
        if (given instanceof Map) {
            return (Map) Arguments.plain(given)
        }
        Map found = [:]
        for (entry in (Collection) given) {
            String name = "PYBUILD_SECRET_${found.size()}".toString()
            Map place = [:]
            if (entry.credentialsId && entry.type == 'file') {
                bindings.add(file(entry.credentialsId, name))
                // The path is in the variable: the builder reads it there.
                place = [fileEnv: name]
            } else if (entry.credentialsId) {
                bindings.add([$class: 'StringBinding', credentialsId: entry.credentialsId.toString(), variable: name])
                place = [env: name]
            } else if (entry.file) {
                place = [file: entry.file.toString()]
            } else {
                place = [env: entry.env.toString()]
            }
            found[entry.id.toString()] = place
        }
        return found
    }

    @NonCPS
    private static Map userAndPassword(Object id, String user, String password) {
        return [$class: 'UsernamePasswordMultiBinding', credentialsId: id.toString(),
                usernameVariable: user, passwordVariable: password]
    }

    @NonCPS
    private static Map file(Object id, String variable) {
        return [$class: 'FileBinding', credentialsId: id.toString(), variable: variable]
    }
}
