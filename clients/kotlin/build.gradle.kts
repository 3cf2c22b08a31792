plugins {
    id("com.android.library") version "8.9.1"
    kotlin("android") version "2.1.20"
    `maven-publish`
}

group = "firstopen"
version = "0.2.0"

android {
    namespace = "firstopen"
    compileSdk = 35
    defaultConfig { minSdk = 21 }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
    kotlinOptions { jvmTarget = "11" }
    publishing { singleVariant("release") { withSourcesJar() } }
}

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.10.2")
    implementation("com.android.installreferrer:installreferrer:2.2")
    testImplementation("junit:junit:4.13.2")
    testImplementation("org.json:json:20240303") // Android's own is a stub in unit tests
}

publishing {
    publications {
        register<MavenPublication>("release") { afterEvaluate { from(components["release"]) } }
    }
}
