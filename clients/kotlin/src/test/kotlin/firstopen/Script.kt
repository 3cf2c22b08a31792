package firstopen

import com.sun.net.httpserver.HttpServer
import java.io.Closeable
import java.io.File
import java.net.InetSocketAddress
import java.nio.file.Files
import java.util.concurrent.CopyOnWriteArrayList
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import org.json.JSONObject

/** A request that the app sent. */
data class Call(val method: String, val path: String, val key: String, val body: JSONObject?)

/** A reply of the scripted firstopen. */
data class Reply(val status: Int, val body: String = "{}", val retryAfter: String? = null)

/** A firstopen that sends these replies in order, and then 418. */
class Script(vararg replies: Reply) : Closeable {
    val calls = CopyOnWriteArrayList<Call>()
    private val left = LinkedBlockingQueue(replies.toList())
    private val server = HttpServer.create(InetSocketAddress("127.0.0.1", 0), 0)
    val url get() = "http://127.0.0.1:${server.address.port}"

    init {
        server.createContext("/") { exchange ->
            val sent = exchange.requestBody.readBytes().decodeToString()
            val body = sent.takeIf { it.isNotEmpty() }?.let { JSONObject(it) }
            val key = exchange.requestHeaders.getFirst("Authorization")
            calls += Call(exchange.requestMethod, exchange.requestURI.path, key, body)
            val reply = left.poll() ?: Reply(418)
            reply.retryAfter?.let { exchange.responseHeaders.add("Retry-After", it) }
            val bytes = reply.body.toByteArray()
            exchange.sendResponseHeaders(reply.status, bytes.size.toLong())
            exchange.responseBody.use { it.write(bytes) }
        }
        server.start()
    }

    override fun close() = server.stop(0)
}

/** A phone with a folder of its own. */
class TestPhone(private val referrer: suspend () -> Referrer? = { null }) : Phone {
    override var folder: File = Files.createTempDirectory("firstopen").toFile()
    override val appVersion = "2.3"
    override val installedAt = 1_790_000_000L

    override suspend fun installReferrer() = referrer()
}

/** One run of the app. [waits] are the milliseconds that it waited; [late] its late landings. */
class App(script: Script, phone: Phone = TestPhone(), budgetMs: Long = 1500) {
    val errors = CopyOnWriteArrayList<String>()
    val waits = CopyOnWriteArrayList<Long>()
    private val arrived = LinkedBlockingQueue<Landing>()

    /** Called while the app waits. */
    var whileWaiting: () -> Unit = {}

    val firstopen = Firstopen(
        "${script.url}/".trimEnd('/'),
        "dub_pk_acme",
        listOf("acme.link"),
        phone,
        "home",
        budgetMs,
        true,
        { errors += "${it::class.simpleName}: ${it.message}" },
        { waits += it; whileWaiting() },
    ).apply { onLate = { arrived += it } }

    /** Waits for a late landing. */
    fun late(): Landing = checkNotNull(arrived.poll(10, TimeUnit.SECONDS)) { "no late landing; errors: $errors" }

    fun noLate(): Boolean = arrived.isEmpty()
}

private fun open(route: String, more: String) = Reply(200, """{"openId": "open-1", "link": null, $more, "route": $route}""")

val FINAL = open(
    """{"screen": "product", "params": {"id": "7"}, "url": "https://acme.com/product/7", "reason": "matched"}""",
    """"clickId": "d0UtZqE0BZuBPrJS", "gate": null, "pending": false""",
)

val HELD = open(
    """{"screen": "product", "params": {"id": "7"}, "url": "https://acme.com/product/7", "reason": "matched"}""",
    """"clickId": "d0UtZqE0BZuBPrJS", "pending": false,
    "gate": {"kind": "update", "screen": "update", "url": "https://acme.com/get", "message": null}""",
)

val PRODUCT = Landing("product", mapOf("id" to "7"), "https://acme.com/product/7", "matched", "d0UtZqE0BZuBPrJS", "open-1")

fun pending(retryAfterMs: Long) = open(
    """{"screen": "home", "params": {}, "url": null, "reason": "default"}""",
    """"clickId": null, "pending": true, "retryAfterMs": $retryAfterMs""",
)

val NOTHING_FOUND = open(
    """{"screen": "home", "params": {}, "url": null, "reason": "default"}""",
    """"clickId": null, "pending": false""",
)
