package hello;

import static org.junit.Assert.assertEquals;

import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import org.junit.Test;

public class ServerTest {
    @Test
    public void greetsTheWorld() {
        assertEquals("Hello, world!\n", Page.of("/"));
    }

    @Test
    public void aNameCannotBringMarkup() {
        assertEquals("Hello, &lt;b&gt;!\n", Page.of("/<b>"));
    }

    @Test
    public void servesOverHttp() throws Exception {
        HttpServer server =
                Server.start(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0));
        try {
            URI address =
                    URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/Ada");
            HttpResponse<String> answer =
                    HttpClient.newHttpClient()
                            .send(
                                    HttpRequest.newBuilder(address).build(),
                                    HttpResponse.BodyHandlers.ofString());
            assertEquals(200, answer.statusCode());
            assertEquals("Hello, Ada!\n", answer.body());
        } finally {
            server.stop(0);
        }
    }
}
