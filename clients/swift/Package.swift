// swift-tools-version: 5.9
import PackageDescription

// Version 0.2.0
let package = Package(
    name: "Firstopen",
    platforms: [.iOS(.v15), .macOS(.v12)],  // macOS to run the tests
    products: [.library(name: "Firstopen", targets: ["Firstopen"])],
    targets: [
        .target(name: "Firstopen"),
        .testTarget(name: "FirstopenTests", dependencies: ["Firstopen"]),
    ]
)
