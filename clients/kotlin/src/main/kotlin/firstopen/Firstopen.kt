package firstopen

import java.io.File
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.util.UUID
import java.util.concurrent.atomic.AtomicInteger
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Deferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.async
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.withTimeoutOrNull
import org.json.JSONObject

/** Where this open should land. [openId] is null if firstopen did not answer: [screen] is the app's `home` then. */
data class Landing(
    val screen: String,
    val params: Map<String, String> = emptyMap(),
    val url: String? = null,
    val reason: String? = null,
    val clickId: String? = null,
    val openId: String? = null,
    /** Not null: show this screen instead of [screen]. */
    val gate: Gate? = null,
)

/** Why this build must not be used now: [kind] is `update` (it is too old) or `maintenance`. */
data class Gate(val kind: String, val screen: String, val url: String?, val message: String?)

/** What Google Play returns: its raw string, and two times in Unix seconds (0 if unknown). */
data class Referrer(val raw: String?, val clickedAt: Long, val installBeganAt: Long)

/** What the phone provides; [AndroidPhone] is the one to use. */
interface Phone {
    /** A folder that is removed with the app, and that no backup carries to a second phone. */
    val folder: File
    val appVersion: String?

    /** When the app was installed, in Unix seconds. */
    val installedAt: Long?

    suspend fun installReferrer(): Referrer?
}

data class Lead(
    val eventName: String,
    val customerExternalId: String,
    val customerName: String? = null,
    val customerEmail: String? = null,
    val customerAvatar: String? = null,
    val metadata: Map<String, Any>? = null,
)

/** How far a lead got: [status] is `delivered`, `queued` or `organic` (the install came by no click). */
data class LeadAnswer(val leadId: String?, val status: String)

/** firstopen refused a request. [retryAfterMs] is its Retry-After header. */
class FirstopenException(val status: Int, val retryAfterMs: Long?) : IOException("firstopen answered $status")

/**
 * Reports opens and leads to firstopen. Make one in your Application.
 *
 * @param domains the app's short link domains, as they stand in a URL; the first is sent as `dubDomain`
 * @param home the screen to show when firstopen has no answer
 * @param budgetMs how long firstopen may take to answer, 100 to 10,000 ms
 * @param consent for `ip_matching = "consented"`: whether the person agreed to be matched by IP address
 * @param onError receives errors on any thread, to log them; the launch goes on
 */
class Firstopen internal constructor(
    private val baseUrl: String,
    private val publishableKey: String,
    private val domains: List<String>,
    private val phone: Phone,
    home: String,
    private val budgetMs: Long,
    private val consent: Boolean?,
    private val onError: (Throwable) -> Unit,
    private val sleep: suspend (Long) -> Unit,
) {
    constructor(
        baseUrl: String,
        publishableKey: String,
        domains: List<String>,
        phone: Phone,
        home: String = "home",
        budgetMs: Long = 1500,
        consent: Boolean? = null,
        onError: (Throwable) -> Unit,
    ) : this(baseUrl.trimEnd('/'), publishableKey, domains, phone, home, budgetMs, consent, onError, ::delay)

    /**
     * Called at most once per open, on a background thread, if its final answer differs from the one that [start] or
     * [opened] returned. Not called after another open or after [movedOn], so it is safe to navigate here.
     */
    @Volatile var onLate: (Landing) -> Unit = {}

    private val home = Landing(home)
    private val answered by lazy { File(phone.folder, "answered") }
    private val generation = AtomicInteger() // counts opens and moves: a late answer of an earlier one is dropped
    private var started: Deferred<Landing>? = null

    // Outlives an Activity that is recreated: a call that takes too long ends on its own, and a retry gets its answer.
    private val background = CoroutineScope(SupervisorJob() + Dispatchers.IO)

    /**
     * Reports this cold start: the first launch always, later launches only with a link. Never throws.
     * Repeated calls in one process return the first answer, so an Activity that is recreated is harmless.
     */
    suspend fun start(deepLink: String?): Landing =
        synchronized(this) {
            started ?: background.async { open(deepLink) ?: home }.also { started = it }
        }.await()

    /** Reports a link that opened the running app (`onNewIntent`). Returns null if firstopen did not answer. */
    suspend fun opened(url: String): Landing? = background.async { open(url) }.await()

    /** Tells that the person has navigated: an answer that arrives later must not move them. */
    fun movedOn() {
        generation.incrementAndGet()
    }

    /** Returns this install's id, for your backend to report leads with. Throws if the folder cannot be used. */
    fun installId(): String = synchronized(generation) {
        phone.folder.mkdirs()
        val file = File(phone.folder, "install-id")
        if (file.exists() && file.length() > 0) return file.readText()
        val fresh = UUID.randomUUID().toString()
        val whole = File(phone.folder, "install-id.new").apply { writeText(fresh) }
        if (!whole.renameTo(file)) throw IOException("cannot write the install id")
        fresh
    }

    /**
     * Reports a lead of this install; the app's settings must say `leads = "client"`.
     * Without a network, on 429 and on 5xx it tries again for some 80 s, then throws. To call it again later is safe:
     * the same customerExternalId and eventName are one lead for 7 days.
     */
    suspend fun lead(lead: Lead): LeadAnswer = withContext(Dispatchers.IO) {
        val body = JSONObject()
            .put("eventName", lead.eventName)
            .put("customerExternalId", lead.customerExternalId)
            .putOpt("customerName", lead.customerName)
            .putOpt("customerEmail", lead.customerEmail)
            .putOpt("customerAvatar", lead.customerAvatar)
            .putOpt("metadata", lead.metadata?.let { JSONObject(it) })
            .put("installId", installId())
        val answer = LEAD_WAITS_MS.firstNotNullOfOrNull { wait ->
            try {
                call("/v1/leads", LEAD_TIMEOUT_MS, body)
            } catch (error: IOException) {
                if (!error.isTemporary) throw error
                onError(error)
                sleep(error.retryAfterMs ?: wait)
                null
            }
        } ?: call("/v1/leads", LEAD_TIMEOUT_MS, body)
        LeadAnswer(answer.stringOrNull("leadId"), answer.getString("status"))
    }

    private suspend fun open(deepLink: String?): Landing? {
        val turn = generation.incrementAndGet()
        val asked = background.async { runCatching { report(deepLink, turn) } }
        val answer = withTimeoutOrNull(REFERRER_MS + budgetMs + NETWORK_MS) { asked.await() }
            ?: Result.failure(IOException("firstopen did not answer in time"))
        // Without an answer, the next launch reports a first open again, with the same install id: that is safe.
        return answer.onFailure(onError).getOrNull()
    }

    /** Returns null if there is nothing to report. */
    private suspend fun report(deepLink: String?, turn: Int): Landing? {
        val first = !answered.exists()
        if (!first && deepLink == null) return null
        val open = JSONObject()
            .putOpt("deepLink", deepLink)
            .putOpt("dubDomain", domains.firstOrNull())
            .putOpt("installId", attempt { installId() })
            .put("platform", "android")
            .putOpt("appVersion", phone.appVersion)
            .put("budgetMs", budgetMs)
            .putOpt("consent", consent)
            .putOpt("installedAt", phone.installedAt)
        if (first) {
            // What the store link carried. It makes the clipboard needless on Android.
            attempt { withTimeout(REFERRER_MS) { phone.installReferrer() } }?.let { referrer ->
                open.putOpt("installReferrer", referrer.raw)
                open.putOpt("referrerClickedAt", referrer.clickedAt.takeIf { it > 0 })
                open.putOpt("installBeganAt", referrer.installBeganAt.takeIf { it > 0 })
            }
        }
        val answer = call("/v1/opens", budgetMs + NETWORK_MS, open)
        val landing = landing(answer)
        if (first) attempt { answered.createNewFile() }
        if (answer.optBoolean("pending")) background.launch { attempt { settle(answer, landing, turn) } }
        return landing
    }

    /** Asks for a pending answer until it is final. */
    private suspend fun settle(early: JSONObject, earlyLanding: Landing, turn: Int) {
        var answer = early
        var wait = early.optLong("retryAfterMs", 1_000)
        var waited = 0L
        while (answer.optBoolean("pending") && waited + wait <= LATE_MS) {
            sleep(wait)
            waited += wait
            if (generation.get() != turn) return
            try {
                answer = call("/v1/opens/${earlyLanding.openId}", budgetMs + NETWORK_MS)
                wait = answer.optLong("retryAfterMs", wait)
            } catch (error: IOException) {
                onError(error)
                if (!error.isTemporary) return
                wait = error.retryAfterMs ?: (wait * 2)
            }
        }
        val late = landing(answer)
        if (generation.get() == turn && late != earlyLanding) onLate(late)
    }

    private fun call(path: String, timeoutMs: Long, body: JSONObject? = null): JSONObject {
        val connection = URL(baseUrl + path).openConnection() as HttpURLConnection
        try {
            connection.connectTimeout = timeoutMs.toInt()
            connection.readTimeout = timeoutMs.toInt()
            connection.setRequestProperty("Authorization", "Bearer $publishableKey")
            if (body != null) {
                connection.doOutput = true // a POST
                connection.setRequestProperty("Content-Type", "application/json")
                connection.outputStream.use { it.write(body.toString().toByteArray()) }
            }
            val status = connection.responseCode
            if (status != 200 && status != 202) {
                val seconds = connection.getHeaderField("Retry-After")?.toLongOrNull()
                throw FirstopenException(status, seconds?.times(1000))
            }
            return JSONObject(connection.inputStream.bufferedReader().use { it.readText() })
        } finally {
            connection.disconnect()
        }
    }

    private fun landing(answer: JSONObject): Landing {
        val route = answer.getJSONObject("route")
        val params = route.getJSONObject("params")
        return Landing(
            screen = route.getString("screen"),
            params = params.keys().asSequence().map { it as String }.associateWith { params.getString(it) },
            url = route.stringOrNull("url"),
            reason = route.stringOrNull("reason"),
            clickId = answer.stringOrNull("clickId"),
            openId = answer.getString("openId"),
            gate = answer.optJSONObject("gate")?.let(::gate),
        )
    }

    private fun gate(held: JSONObject) =
        Gate(held.getString("kind"), held.getString("screen"), held.stringOrNull("url"), held.stringOrNull("message"))

    /** Returns null, and reports the error, if [work] fails. */
    private inline fun <T> attempt(work: () -> T): T? = runCatching(work).onFailure(onError).getOrNull()

    private fun JSONObject.stringOrNull(name: String): String? = if (isNull(name)) null else getString(name)

    /** Whether a request may succeed later: no answer at all, 429 or 5xx. */
    private val IOException.isTemporary get() = this !is FirstopenException || status == 429 || status >= 500

    private val IOException.retryAfterMs get() = (this as? FirstopenException)?.retryAfterMs

    private companion object {
        const val REFERRER_MS = 500L // Google Play usually answers within 100 ms
        const val NETWORK_MS = 300L // in addition to the budget
        const val LATE_MS = 60_000L // firstopen looks for a late click for some 30 s
        const val LEAD_TIMEOUT_MS = 10_000L
        val LEAD_WAITS_MS = listOf(1_000L, 4_000L, 15_000L, 60_000L)
    }
}
