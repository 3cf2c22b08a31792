package com.android.installreferrer.api;

import android.content.Context;
import java.io.IOException;

public abstract class InstallReferrerClient {
    public @interface InstallReferrerResponse {
        int OK = 0;
    }

    public abstract static class Builder {
        public abstract InstallReferrerClient build();
    }

    public static Builder newBuilder(Context context) {
        throw new UnsupportedOperationException();
    }

    public abstract void startConnection(InstallReferrerStateListener listener);

    public abstract void endConnection();

    // android.os.RemoteException on a phone
    public abstract ReferrerDetails getInstallReferrer() throws IOException;
}
