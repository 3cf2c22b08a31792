import Foundation
import UIKit

/// Asks firstopen where this launch should land. Never throws; give it a launch screen that waits 2 s or longer.
struct FirstOpen: Sendable {
    struct Landing: Decodable, Sendable {
        struct Route: Decodable, Sendable {
            let screen: String
            let params: [String: String]
            let url: String?
        }
        let clickId: String?
        let route: Route
    }

    private struct Open: Encodable {
        var deepLink: String?
        var clipboard: String?
        var dubDomain: String
        var installId: String
        var platform = "ios"
        var appVersion = Bundle.main.infoDictionary?["CFBundleShortVersionString"] as? String
        var budgetMs = 1500
    }

    let baseURL: URL
    let publishableKey: String
    let domain: String
    var home = Landing(clickId: nil, route: .init(screen: "home", params: [:], url: nil))

    /// `mayPaste` asks the person; it is called on a first launch only, and only if a URL seems to be on the clipboard.
    func landing(deepLink: URL? = nil, mayPaste: @Sendable () async -> Bool) async -> Landing {
        do {
            let folder = try Self.folder()
            let answered = folder.appendingPathComponent("answered")
            let first = !FileManager.default.fileExists(atPath: answered.path)
            guard first || deepLink != nil else { return home }
            var open = Open(dubDomain: domain, installId: try Self.installId(in: folder))
            open.deepLink = deepLink?.absoluteString
            if first && deepLink == nil { open.clipboard = await clipboard(mayPaste) }
            let landing = try await report(open)
            try Data().write(to: answered)
            return landing
        } catch {
            return home  // and the next launch asks again: with the same installId that is safe
        }
    }

    private func report(_ open: Open) async throws -> Landing {
        let body = try JSONEncoder().encode(open)
        return try await withThrowingTaskGroup(of: Landing.self) { race in
            race.addTask { try await post(body) }
            race.addTask {
                try await Task.sleep(nanoseconds: 1_800_000_000)  // budgetMs, and a little for the network
                throw URLError(.timedOut)
            }
            defer { race.cancelAll() }
            guard let landing = try await race.next() else { throw URLError(.unknown) }
            return landing
        }
    }

    private func post(_ body: Data) async throws -> Landing {
        var request = URLRequest(url: baseURL.appendingPathComponent("v1/opens"))
        request.httpMethod = "POST"
        request.httpBody = body
        request.setValue("Bearer \(publishableKey)", forHTTPHeaderField: "Authorization")
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")
        let (data, response) = try await URLSession.shared.data(for: request)
        guard (response as? HTTPURLResponse)?.statusCode == 200 else { throw URLError(.badServerResponse) }
        return try JSONDecoder().decode(Landing.self, from: data)
    }

    private func clipboard(_ mayPaste: @Sendable () async -> Bool) async -> String? {
        // Looking for a pattern shows nothing; reading makes iOS ask, so it comes after the app's own question.
        let found = try? await UIPasteboard.general.detectedPatterns(for: [\.probableWebURL])
        guard found?.contains(\.probableWebURL) == true, await mayPaste() else { return nil }
        return UIPasteboard.general.string.flatMap { $0.contains(domain) && $0.utf8.count <= 2048 ? $0 : nil }
    }

    /// A folder that goes with the app and that no backup carries to a second phone, unlike UserDefaults.
    private static func folder() throws -> URL {
        var folder = try FileManager.default
            .url(for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            .appendingPathComponent("firstopen", isDirectory: true)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        try folder.setResourceValues(values)
        return folder
    }

    private static func installId(in folder: URL) throws -> String {
        let file = folder.appendingPathComponent("install-id")
        if let known = try? String(contentsOf: file, encoding: .utf8) { return known }
        let fresh = UUID().uuidString
        try fresh.write(to: file, atomically: true, encoding: .utf8)
        return fresh
    }
}
