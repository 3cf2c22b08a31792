package firstopen

import android.content.Context
import com.android.installreferrer.api.InstallReferrerClient
import com.android.installreferrer.api.InstallReferrerClient.InstallReferrerResponse
import com.android.installreferrer.api.InstallReferrerStateListener
import com.android.installreferrer.api.ReferrerDetails
import java.io.File
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.util.UUID
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.async
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import kotlinx.coroutines.suspendCancellableCoroutine
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.withTimeoutOrNull
import org.json.JSONObject

data class Landing(
    val screen: String,
    val params: Map<String, String> = emptyMap(),
    val url: String? = null,
    val clickId: String? = null,
)

/** Asks firstopen where this launch should land. Never throws; give it a launch screen that waits 2.5 s or longer. */
class FirstOpen(
    private val context: Context,
    private val baseUrl: String,
    private val publishableKey: String,
    private val domain: String,
    private val home: Landing = Landing("home"),
    /** Gets what failed, on any thread, to log it; the launch goes on. */
    private val onError: (Throwable) -> Unit,
    /** Called at most once, on any thread, after `landing`, if the click of this launch was found a little later. */
    private val onLate: (Landing) -> Unit = {},
) {
    // This folder goes with the app, and no backup carries it to a second phone, unlike SharedPreferences.
    private val folder by lazy { File(context.noBackupFilesDir, "firstopen").apply { mkdirs() } }
    private val answered by lazy { File(folder, "answered") }

    // A call that is late is left to end on its own: firstopen has heard of the open, and a retry gets its answer.
    private val background = CoroutineScope(SupervisorJob() + Dispatchers.IO)

    suspend fun landing(deepLink: String? = null): Landing {
        val asked = background.async { runCatching { ask(deepLink) } }
        val landing = withTimeoutOrNull(REFERRER_MS + BUDGET_MS + NETWORK_MS) { asked.await() }
            ?: Result.failure(IOException("firstopen did not answer in time"))
        return landing
            .onSuccess { runCatching { answered.createNewFile() }.onFailure(onError) }
            .onFailure(onError)
            .getOrDefault(home) // and the next launch asks again: with the same installId that is safe
    }

    private suspend fun ask(deepLink: String?): Landing {
        if (answered.exists() && deepLink == null) return home
        val app = context.packageManager.getPackageInfo(context.packageName, 0)
        val open = JSONObject()
            .put("dubDomain", domain)
            .put("installId", installId())
            .put("platform", "android")
            .put("appVersion", app.versionName)
            .put("budgetMs", BUDGET_MS)
            .put("installedAt", app.firstInstallTime / 1000)
            .putOpt("deepLink", deepLink)
        // What the store link carried; it makes the clipboard needless on Android. Play's times are 0 if unknown.
        if (!answered.exists()) {
            installReferrer()?.let { referrer ->
                open.put("installReferrer", referrer.installReferrer)
                open.putOpt("referrerClickedAt", referrer.referrerClickTimestampSeconds.takeIf { it > 0 })
                open.putOpt("installBeganAt", referrer.installBeginTimestampSeconds.takeIf { it > 0 })
            }
        }
        val answer = call("/v1/opens", open)
        val landing = landing(answer)
        if (answer.optBoolean("pending") && answer.has("retryAfterMs")) {
            background.launch { runCatching { askAgain(answer, landing) }.onFailure(onError) }
        }
        return landing
    }

    // Dub may show a click a few seconds late.
    private suspend fun askAgain(answer: JSONObject, early: Landing) {
        delay(answer.getLong("retryAfterMs"))
        val late = landing(call("/v1/opens/${answer.getString("openId")}"))
        if (late.clickId != early.clickId) onLate(late)
    }

    private fun call(path: String, open: JSONObject? = null): JSONObject {
        val connection = URL(baseUrl + path).openConnection() as HttpURLConnection
        try {
            connection.connectTimeout = (BUDGET_MS + NETWORK_MS).toInt()
            connection.readTimeout = (BUDGET_MS + NETWORK_MS).toInt()
            connection.setRequestProperty("Authorization", "Bearer $publishableKey")
            if (open != null) {
                connection.doOutput = true // a POST
                connection.setRequestProperty("Content-Type", "application/json")
                connection.outputStream.use { it.write(open.toString().toByteArray()) }
            }
            if (connection.responseCode != 200) throw IOException("firstopen answered ${connection.responseCode}")
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
            params = params.keys().asSequence().associateWith { params.getString(it) },
            url = route.stringOrNull("url"),
            clickId = answer.stringOrNull("clickId"),
        )
    }

    private suspend fun installReferrer(): ReferrerDetails? =
        runCatching { withTimeout(REFERRER_MS) { askGooglePlay() } }.onFailure(onError).getOrNull()

    private suspend fun askGooglePlay(): ReferrerDetails = suspendCancellableCoroutine { waiting ->
        val client = InstallReferrerClient.newBuilder(context).build()
        waiting.invokeOnCancellation { client.endConnection() }
        client.startConnection(object : InstallReferrerStateListener {
            override fun onInstallReferrerSetupFinished(responseCode: Int) {
                val referrer = runCatching {
                    if (responseCode != InstallReferrerResponse.OK) throw IOException("Play answered $responseCode")
                    client.installReferrer
                }
                client.endConnection()
                if (waiting.isActive) waiting.resumeWith(referrer)
            }

            override fun onInstallReferrerServiceDisconnected() = Unit
        })
    }

    private fun installId(): String {
        val file = File(folder, "install-id")
        if (file.exists() && file.length() > 0) return file.readText()
        return UUID.randomUUID().toString().also(file::writeText)
    }

    private fun JSONObject.stringOrNull(name: String): String? = if (isNull(name)) null else getString(name)

    private companion object {
        const val REFERRER_MS = 500L
        const val BUDGET_MS = 1500L
        const val NETWORK_MS = 300L
    }
}
