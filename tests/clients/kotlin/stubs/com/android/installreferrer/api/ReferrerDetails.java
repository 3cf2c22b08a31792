package com.android.installreferrer.api;

public abstract class ReferrerDetails {
    public abstract String getInstallReferrer();

    public abstract long getReferrerClickTimestampSeconds();

    public abstract long getInstallBeginTimestampSeconds();
}
