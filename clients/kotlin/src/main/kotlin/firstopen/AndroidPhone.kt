package firstopen

import android.content.Context
import android.content.Intent
import com.android.installreferrer.api.InstallReferrerClient
import com.android.installreferrer.api.InstallReferrerClient.InstallReferrerResponse
import com.android.installreferrer.api.InstallReferrerStateListener
import java.io.File
import java.io.IOException
import kotlinx.coroutines.suspendCancellableCoroutine

/** The phone that the app runs on. */
class AndroidPhone(context: Context) : Phone {
    private val context = context.applicationContext
    private val app by lazy { this.context.packageManager.getPackageInfo(this.context.packageName, 0) }

    // Android keeps this folder out of every backup; SharedPreferences are in them.
    override val folder by lazy { File(this.context.noBackupFilesDir, "firstopen") }
    override val appVersion: String? get() = app.versionName
    override val installedAt: Long get() = app.firstInstallTime / 1000

    override suspend fun installReferrer(): Referrer = suspendCancellableCoroutine { waiting ->
        val client = InstallReferrerClient.newBuilder(context).build()
        waiting.invokeOnCancellation { client.endConnection() }
        client.startConnection(object : InstallReferrerStateListener {
            override fun onInstallReferrerSetupFinished(responseCode: Int) {
                val referrer = runCatching {
                    if (responseCode != InstallReferrerResponse.OK) throw IOException("Play answered $responseCode")
                    client.installReferrer.run {
                        Referrer(installReferrer, referrerClickTimestampSeconds, installBeginTimestampSeconds)
                    }
                }
                client.endConnection()
                if (waiting.isActive) waiting.resumeWith(referrer)
            }

            override fun onInstallReferrerServiceDisconnected() = Unit
        })
    }
}

/** The link that this intent opens; null for one that Android replays from the list of recent apps. */
val Intent.openedLink: String?
    get() = dataString.takeIf { flags and Intent.FLAG_ACTIVITY_LAUNCHED_FROM_HISTORY == 0 }
