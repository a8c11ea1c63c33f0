package pybuild

import com.cloudbees.groovy.cps.CpsTransformer
import com.cloudbees.groovy.cps.sandbox.Untrusted
import groovy.transform.CompileStatic
import org.codehaus.groovy.ast.ClassCodeExpressionTransformer
import org.codehaus.groovy.ast.ClassNode
import org.codehaus.groovy.ast.FieldNode
import org.codehaus.groovy.ast.MethodNode
import org.codehaus.groovy.ast.stmt.Statement
import org.codehaus.groovy.classgen.GeneratorContext
import org.codehaus.groovy.control.SourceUnit
import org.kohsuke.groovy.sandbox.SandboxTransformer

/**
 * Continuation passing style for what a sandbox checks: the call sites are marked as untrusted, and what
 * stays as it is (NonCPS methods, initial values of fields) asks the sandbox itself. groovy-cps has one,
 * but for a newer groovy-sandbox than Maven Central has.
 */
@CompileStatic
class SandboxedCpsTransformer extends CpsTransformer {
    private final SandboxTransformer sandbox = new SandboxTransformer()
    private ClassCodeExpressionTransformer checked

    @Override
    void call(SourceUnit source, GeneratorContext context, ClassNode type) {
        checked = sandbox.createVisitor(source, type)
        super.call(source, context, type)
    }

    @Override
    protected void processConstructors(ClassNode type) { sandbox.processConstructors(checked, type) }

    @Override
    protected void visitNontransformedMethod(MethodNode method) { checked.visitMethod(method) }

    @Override
    protected void visitNontransformedField(FieldNode field) { checked.visitField(field) }

    @Override
    protected void visitNontransformedStatement(Statement statement) { statement.visit(checked) }

    @Override
    protected Class getTrustTag() { Untrusted }
}
