package com.acme.app

import android.content.Context
import com.android.installreferrer.api.InstallReferrerClient
import com.android.installreferrer.api.InstallReferrerClient.InstallReferrerResponse
import com.android.installreferrer.api.InstallReferrerStateListener
import java.io.File
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.util.UUID
import kotlin.coroutines.resume
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.async
import kotlinx.coroutines.suspendCancellableCoroutine
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
) {
    // This folder goes with the app, and no backup carries it to a second phone, unlike SharedPreferences.
    private val folder by lazy { File(context.noBackupFilesDir, "firstopen").apply { mkdirs() } }
    private val answered by lazy { File(folder, "answered") }

    // A call that is late is left to end on its own: firstopen has heard of the open, and a retry gets its answer.
    private val background = CoroutineScope(SupervisorJob() + Dispatchers.IO)

    suspend fun landing(deepLink: String? = null): Landing =
        withTimeoutOrNull(REFERRER_MS + BUDGET_MS + NETWORK_MS) {
            val asked = background.async { runCatching { ask(deepLink) }.getOrNull() }
            asked.await()?.also { runCatching { answered.createNewFile() } }
        } ?: home // and the next launch asks again: with the same installId that is safe

    private suspend fun ask(deepLink: String?): Landing {
        if (answered.exists() && deepLink == null) return home
        val open = JSONObject()
            .put("dubDomain", domain)
            .put("installId", installId())
            .put("platform", "android")
            .put("appVersion", context.packageManager.getPackageInfo(context.packageName, 0).versionName)
            .put("budgetMs", BUDGET_MS)
            .putOpt("deepLink", deepLink)
        // What the store link carried; it makes the clipboard needless on Android.
        if (!answered.exists()) open.putOpt("installReferrer", withTimeoutOrNull(REFERRER_MS) { installReferrer() })
        return report(open)
    }

    private fun report(open: JSONObject): Landing {
        val connection = URL("$baseUrl/v1/opens").openConnection() as HttpURLConnection
        try {
            connection.connectTimeout = (BUDGET_MS + NETWORK_MS).toInt()
            connection.readTimeout = (BUDGET_MS + NETWORK_MS).toInt()
            connection.doOutput = true
            connection.setRequestProperty("Authorization", "Bearer $publishableKey")
            connection.setRequestProperty("Content-Type", "application/json")
            connection.outputStream.use { it.write(open.toString().toByteArray()) }
            if (connection.responseCode != 200) throw IOException("firstopen answered ${connection.responseCode}")
            val answer = JSONObject(connection.inputStream.bufferedReader().use { it.readText() })
            val route = answer.getJSONObject("route")
            val params = route.getJSONObject("params")
            return Landing(
                screen = route.getString("screen"),
                params = params.keys().asSequence().associateWith { params.getString(it) },
                url = route.stringOrNull("url"),
                clickId = answer.stringOrNull("clickId"),
            )
        } finally {
            connection.disconnect()
        }
    }

    private suspend fun installReferrer(): String? = suspendCancellableCoroutine { waiting ->
        val client = InstallReferrerClient.newBuilder(context).build()
        waiting.invokeOnCancellation { client.endConnection() }
        client.startConnection(object : InstallReferrerStateListener {
            override fun onInstallReferrerSetupFinished(responseCode: Int) {
                val referrer = runCatching { client.installReferrer.installReferrer }
                client.endConnection()
                if (!waiting.isActive) return
                waiting.resume(if (responseCode == InstallReferrerResponse.OK) referrer.getOrNull() else null)
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
