package android.content;

import android.content.pm.PackageManager;
import java.io.File;

public abstract class Context {
    public abstract Context getApplicationContext();

    public abstract File getNoBackupFilesDir();

    public abstract PackageManager getPackageManager();

    public abstract String getPackageName();
}
