import Foundation

#if os(iOS)
    import UIKit
#endif

/// What the phone provides. Tests make their own.
struct Phone: Sendable {
    /// A folder that is removed with the app, and that no backup carries to a second phone.
    var folder: @Sendable () throws -> URL
    /// When the app was installed, in Unix seconds.
    var installedAt: @Sendable () throws -> Int
    var appVersion: String?
    var platform: String?
    /// Whether the clipboard may hold a URL. Shows nothing to the person.
    var clipboardHasURL: @Sendable () async throws -> Bool
    /// Makes iOS ask the person.
    var readClipboard: @Sendable () async -> String?

    static var own: Phone {
        var phone = Phone(
            folder: folder, installedAt: installedAt,
            appVersion: Bundle.main.infoDictionary?["CFBundleShortVersionString"] as? String,
            clipboardHasURL: { false }, readClipboard: { nil })
        #if os(iOS) && !targetEnvironment(macCatalyst)
            phone.platform = "ios"
            phone.clipboardHasURL = {
                try await UIPasteboard.general.detectedPatterns(for: [\.probableWebURL]).contains(\.probableWebURL)
            }
            phone.readClipboard = { UIPasteboard.general.string }
        #endif
        return phone
    }

    // UserDefaults are part of backups, and Keychain items remain after the app is deleted: with either, a reinstall
    // could count as the same install.
    @Sendable private static func folder() throws -> URL {
        var folder = try FileManager.default
            .url(for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            .appendingPathComponent("firstopen", isDirectory: true)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        try folder.setResourceValues(values)
        return folder
    }

    /// iOS makes the documents folder when it installs the app.
    @Sendable private static func installedAt() throws -> Int {
        let documents = try FileManager.default
            .url(for: .documentDirectory, in: .userDomainMask, appropriateFor: nil, create: false)
        let attributes = try FileManager.default.attributesOfItem(atPath: documents.path)
        guard let created = attributes[.creationDate] as? Date else { throw CocoaError(.fileReadUnknown) }
        return Int(created.timeIntervalSince1970)
    }
}
